"""`peers limit set`: create or change a limit."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, queries
from peers.cli.argument_types import duration, name, positive, text
from peers.cli.database import connected, perform
from peers.cli.limit_table import is_unused, limit_in_words, place_of
from peers.cli.options import add_reason
from peers.cli.parser import add_command, advice
from peers.client import limit_operations as operations
from peers.errors import BadLimit

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.cli.parser import Commands
    from peers.client.limit_records import LimitRecord
    from peers.database.connection import Connection

_NONE: Final = "none"
_UNSET: Final = object()
_FIELDS: Final = (
    "kind", "queue", "key", "max_running", "starts", "per", "weight", "fair", "learns",
)  # fmt: skip


def register_set(group: Commands) -> None:
    """Declare `set`."""
    set_ = add_command(
        group,
        "set",
        _set,
        'create or change a limit (options left out keep their values, "none" clears one)',
        example=(
            "peers limit set stripe --kind pay.charge --max-running 4",
            "peers limit set api --queue api --starts 100 --per 1m --key account_id",
        ),
    )
    set_.add_argument("name", type=name, metavar="NAME", help="name of the limit")
    of = set_.add_argument_group("of").add_mutually_exclusive_group()
    of.add_argument("--kind", type=name, metavar="KIND", help="the kind whose tasks it limits")
    of.add_argument("--queue", type=name, metavar="QUEUE", help="the queue whose tasks it limits")
    limit = set_.add_argument_group("limit")
    limit.add_argument(
        "--key", type=_or_none(text), metavar="PATH",
        help="path into args, such as account_id: the limit holds for each value on its own",
    )  # fmt: skip
    limit.add_argument(
        "--max-running", type=_or_none(positive), metavar="N", help="how many run at once"
    )
    limit.add_argument(
        "--starts", type=_or_none(positive), metavar="N", help="how many start in a period"
    )
    limit.add_argument(
        "--per", type=_or_none(duration), metavar="DURATION", help="the period, such as 1s"
    )
    limit.add_argument(
        "--weight", type=_or_none(text), metavar="PATH",
        help="path to a number in args: --max-running bounds the sum of the weights",
    )  # fmt: skip
    switch = argparse.BooleanOptionalAction
    limit.add_argument(
        "--fair", action=switch,
        help="the next task comes from the key with the fewest running tasks",
    )  # fmt: skip
    limit.add_argument(
        "--learns", action=switch,
        help="a cooldown halves --max-running; quiet minutes raise it again",
    )  # fmt: skip
    add_reason(set_)
    set_.set_defaults(**dict.fromkeys(_FIELDS, _UNSET))


def _or_none(parse: Callable[[str], object]) -> Callable[[str], object]:
    def parsed(value: str) -> object:
        return None if value == _NONE else parse(value)

    return parsed


def _set(args: argparse.Namespace) -> int:
    given: dict[str, Any] = {
        field: getattr(args, field) for field in _FIELDS if getattr(args, field) is not _UNSET
    }
    if not given:
        args.parser.error("name what to set, such as --max-running 4")
    if "kind" in given or "queue" in given:
        given = {"kind": None, "queue": None, **given}
    with connected(args) as connection:
        try:
            is_new = perform(
                connection, operations.set_limit(args.name, reason=args.reason, **given)
            )
        except BadLimit as error:
            raise BadLimit(error.message, f"For example: {_example(args)}") from None
        found = perform(connection, operations.get_limit(args.name, keys=0))
        peers = queries.peers(connection)
        missing = [
            path
            for path in (found.key, found.weight)
            if path and _no_value(connection, found, path)
        ]
    each = f" for each {found.key}" if found.key else ""
    output.tell(
        f'limit "{args.name}" is {"created" if is_new else "changed"}: '
        f"{limit_in_words(found)}{each}, of {place_of(found)}"
    )
    if found.declaring_peers:
        output.say("Code declares it. Your change is kept until the declaration itself changes.")
    if is_unused(found, peers):
        output.say(f"No running peer serves {place_of(found)}: check the name.")
    for path in missing:
        output.say(
            f"No recent task of {place_of(found)} has a value at {path} in args: check the path."
        )
    return 0


def _no_value(connection: Connection, limit: LimitRecord, path: str) -> bool:
    """Return whether tasks were submitted lately, and none has a value at this path."""
    tasks, values = queries.recent_values(connection, limit.kind, limit.queue, path)
    return bool(tasks) and not values


def _example(args: argparse.Namespace) -> str:
    name = shlex.quote(args.name)
    return advice(args, f"limit set {name} --kind invoice.charge --key account_id --max-running 8")
