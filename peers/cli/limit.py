"""`peers limit`: list, show, set, remove, shut or open limits."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, queries
from peers.cli.database import connected, perform
from peers.cli.limit_set import register_set
from peers.cli.limit_table import (
    document_of,
    is_unused,
    now_of,
    origin_of,
    place_of,
    print_limits,
    said_limit,
)
from peers.cli.parser import (
    add_command,
    add_group,
    add_reason,
    advice,
    duration,
    instant,
    name,
    positive,
)
from peers.client import limit_operations as operations
from peers.errors import BadLimit

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands
    from peers.client.limit_records import LimitKey, LimitRecord

_KEYS_SHOWN: Final = 10
_TIME: Final = "%Y-%m-%d %H:%M:%S"


def register(commands: Commands) -> None:
    """Declare `limit` and its commands."""
    group = add_group(
        commands,
        "limit",
        "limits: how many tasks run at once, or start in a period",
        example="peers limit list",
    )
    add_command(
        group, "list", _list, "list limits, and what runs and waits", reads=True,
        example="peers limit list --json",
    )  # fmt: skip
    show = add_command(
        group,
        "show",
        _show,
        "show a limit, and what runs and waits under its keys",
        reads=True,
        example="peers limit show stripe --keys 20",
    )
    _add_name(show)
    show.add_argument(
        "--keys", type=positive, default=_KEYS_SHOWN, metavar="N",
        help=f"how many keys; those with the most waiting tasks come first "
        f"(default: {_KEYS_SHOWN})",
    )  # fmt: skip
    register_set(group)
    remove = add_command(
        group, "remove", _remove, "remove a limit (its tasks run without it)",
        example="peers limit remove stripe",
    )  # fmt: skip
    _add_name(remove)
    add_reason(remove)
    shut = add_command(
        group, "shut", _shut, "start no tasks under a limit (running tasks go on)",
        example="peers limit shut stripe --for 15m --reason 'stripe is down'",
    )  # fmt: skip
    _add_name(shut)
    when = shut.add_mutually_exclusive_group()
    when.add_argument(
        "--for", type=duration, dest="seconds", metavar="DURATION", help="for so long"
    )
    when.add_argument(
        "--until", type=instant, metavar="TIME",
        help="until this time (ISO 8601; default: until it is opened)",
    )  # fmt: skip
    add_reason(shut)
    opened = add_command(
        group, "open", _open, "open a limit that is shut", example="peers limit open stripe"
    )
    _add_name(opened)
    add_reason(opened)


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=name, metavar="NAME", help="name of the limit")


# -------------------------------------------------------------------------------------- reading


def _list(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        now = queries.now(connection)
        found = perform(connection, operations.find_limits())
        peers = queries.peers(connection)
    any_peer = any(peer["alive"] for peer in peers)
    if args.json:
        output.document({"limits": [document_of(each, any_peer=any_peer) for each in found]})
        return 0
    if not found:
        output.say("no limits")
        return 0
    print_limits(found, now, any_peer=any_peer)
    for each in found:
        if is_unused(each, peers):
            output.say(f'limit "{each.name}": no running peer serves {place_of(each)}')
    return 0


def _show(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        now = queries.now(connection)
        found = perform(connection, operations.get_limit(args.name, keys=args.keys))
        any_peer = any(peer["alive"] for peer in queries.peers(connection))
    if args.json:
        output.document(document_of(found, any_peer=any_peer))
        return 0
    print(output.one_line(f"limit {found.name}, of {place_of(found)}"))
    lines = {
        "key": found.key or "none: one limit for all tasks",
        "limit": said_limit(found),
        "now": now_of(found, now),
        "because": found.shut_because if found.shut_until else None,
        "running": f"{found.running:,}",
        "waiting": f"{found.waiting:,}",
        "declared": origin_of(found, any_peer=any_peer),
        "changed": f"{found.changed_at.astimezone(UTC):{_TIME}} UTC",
    }
    for label, value in lines.items():
        if value:
            print(f"  {label:<10}{output.readable(value)}")
    if found.keys:
        print()
        _print_keys(found)
    for key in found.keys:
        if key.locked_by is not None:
            output.say(_said_lock(found, key))
    if found.shut_until:
        output.say(f"hint: `{advice(args, f'limit open {shlex.quote(found.name)}')}` opens it.")
    return 0


def _said_lock(limit: LimitRecord, key: LimitKey) -> str:
    of = "" if limit.key is None else f" of {limit.key} {'(none)' if key.key is None else key.key}"
    application = f" ({key.locked_by_application})" if key.locked_by_application else ""
    return (
        f"session {key.locked_by}{application} has locked the key{of}: no task of it starts until "
        f"the session ends. SELECT pg_terminate_backend({key.locked_by}) ends it."
    )


def _print_keys(limit: LimitRecord) -> None:
    more: dict[str, Any] = {}
    if limit.weight is not None:
        more["WEIGHT"] = lambda key: f"{key.weight:g}"
    if limit.starts is not None:
        more["STARTED"] = lambda key: key.started
    if any(key.locked_by is not None for key in limit.keys):
        more["LOCKED BY"] = lambda key: key.locked_by or ""
    output.table(
        ("KEY", "RUNNING", "WAITING", *more),
        [
            (
                "(none)" if key.key is None else key.key, key.running, key.waiting,
                *(read(key) for read in more.values()),
            )
            for key in limit.keys
        ],
    )  # fmt: skip


# ------------------------------------------------------------------------------------- changing


def _remove(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = perform(connection, operations.get_limit(args.name, keys=0))
        perform(connection, operations.remove_limit(args.name, reason=args.reason))
    print(f'limit "{args.name}" is removed')
    if found.declaring_peers:
        output.say(
            "The code of running peers declares it: the next peer that joins creates it again."
            f" `{advice(args, 'limit set NAME --max-running 1000000')}` lifts it until the code"
            " changes."
        )
    return 0


def _shut(args: argparse.Namespace) -> int:
    if args.seconds is not None and not timedelta() < args.seconds <= operations.SHUT_MAX:
        raise BadLimit(
            "--for must be more than 0 and at most 10 years (3650 days), "
            f"not {output.span(args.seconds)}",
            _how_to_open(args),
        )
    request = operations.shut_limit(
        args.name, seconds=args.seconds, until=args.until, reason=args.reason
    )
    with connected(args) as connection:
        try:
            perform(connection, request)
        except BadLimit as error:
            raise BadLimit(f"--{error.message}", _how_to_open(args)) from None
    print(f'limit "{args.name}" is shut {_until(args.seconds, args.until)}; running tasks go on')
    return 0


def _how_to_open(args: argparse.Namespace) -> str:
    return (
        f"`{advice(args, f'limit open {shlex.quote(args.name)}')}` opens the limit. Without --for "
        "and --until it is shut until then."
    )


def _until(seconds: timedelta | None, until: datetime | None) -> str:
    if seconds is not None:
        return f"for {output.span(seconds)}"
    if until is not None:
        return f"until {until.astimezone(UTC):{_TIME}} UTC"
    return "until it is opened"


def _open(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        was_shut = perform(connection, operations.open_limit(args.name, reason=args.reason))
    print(f'limit "{args.name}" {"is open" if was_shut else "was not shut"}')
    return 0
