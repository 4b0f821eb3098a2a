"""The options that choose tasks, and the filter that they become in SQL."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from peers.cli import output, queries
from peers.cli.argument_types import graph_id, instant, name, task_id, text
from peers.spans import age_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.cli.parser import Parser
    from peers.database.connection import Connection

Filter: TypeAlias = dict[str, Any]
"""What peers.retry_dead, discard_dead and cancel_tasks take. The times are datetimes."""

_FIRST: Final = datetime.min.replace(tzinfo=UTC)

OPTIONS: Final = {
    "kind": "--kind",
    "queue": "--queue",
    "state": "--state",
    "error": "--error",
    "error_type": "--error-type",
    "frame": "--frame",
    "since": "--since",
    "until": "--until",
    "graph": "--graph",
}
"""The option for each key of a filter."""


def add_task_options(parser: Parser, *, since: str) -> None:
    """Declare the options that are about the task itself. `since` says what the times are of."""
    group = parser.add_argument_group("which tasks (all that match every option)")
    group.add_argument("--kind", type=name, metavar="KIND", help="only this kind")
    group.add_argument("--queue", type=name, metavar="QUEUE", help="only this queue")
    group.add_argument("--graph", type=graph_id, metavar="ID", help="only tasks of this graph")
    group.add_argument(
        "--since",
        type=time_or_age,
        metavar="TIME",
        help=f"only tasks that {since} at this time or later: 2h, 3d or 2026-11-27T03:00",
    )
    group.add_argument(
        "--until",
        type=time_or_age,
        metavar="TIME",
        help=f"only tasks that {since} before this time",
    )


def add_cause_options(parser: Parser) -> None:
    """Declare the options that are about the last failure."""
    group = parser.add_argument_group("which cause")
    group.add_argument(
        "--error",
        type=text,
        metavar="TEXT",
        help='only if the last error ("type: message") contains this text, in any case',
    )
    group.add_argument(
        "--error-type", type=text, metavar="TYPE", help="only if the last error has this type"
    )
    group.add_argument(
        "--frame",
        type=text,
        metavar="FRAME",
        help='only if it was raised there, such as "shop/tasks.py:42 in charge"',
    )
    group.add_argument(
        "--cause-of",
        type=task_id,
        metavar="ID",
        help="only dead letters with the same cause as this one: kind, error type and frame",
    )


def require_one_way(args: argparse.Namespace) -> None:
    """End with a usage error unless the tasks are named by ids, by options or by --all."""
    options = (*OPTIONS, "cause_of")
    is_filtered = any(getattr(args, key, None) is not None for key in options)
    if bool(args.ids) + is_filtered + getattr(args, "all", False) != 1:
        words = ", or --all" if hasattr(args, "all") else ""
        ways = f"ids, or options such as --kind KIND and --graph ID{words}"
        args.parser.error(f"name the tasks in one way: {ways}")


def time_or_age(value: str) -> datetime | timedelta:
    """Return a time, or a duration that means so long ago."""
    try:
        return age_of(value)  # not 20261127, which is a date
    except ValueError:
        pass
    try:
        return instant(value)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            'must be a duration such as "2h" or "3d" (so long ago), or a time such as '
            f'"2026-11-27T03:00" or "2026-11-27T02:00Z", not "{value}"'
        ) from None


def say_if_kind_is_unknown(connection: Connection, args: argparse.Namespace) -> None:
    """Say on stderr that --kind may be mistyped, if no peer has ever had a handler for it."""
    if args.kind is not None and not queries.is_known_kind(connection, args.kind):
        output.say(f'No peer has a handler for the kind "{args.kind}". Check the name.')


def _ago(now: datetime, age: timedelta) -> datetime:
    try:
        return now - age
    except OverflowError:
        return _FIRST


def filter_of(
    args: argparse.Namespace, connection: Connection, keys: Sequence[str] = tuple(OPTIONS)
) -> Filter:
    """Return the filter that the options describe. Raises GraphNotFound if --graph names none."""
    found: Filter = {key: getattr(args, key, None) for key in keys}
    for key in ("since", "until"):
        if isinstance(found.get(key), timedelta):
            found[key] = _ago(queries.now(connection), found[key])
    if found.get("graph") is not None:
        queries.graph(connection, found["graph"])  # its list of tasks would just be empty
    return {key: value for key, value in found.items() if value is not None}
