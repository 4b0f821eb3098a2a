"""Read the filter of the commands about dead letters, and say what a filter nearly matches."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

from peers.cli import dead_queries, output
from peers.cli.database import perform
from peers.cli.filters import OPTIONS, Filter, filter_of, say_if_kind_is_unknown
from peers.cli.parser import advice
from peers.client import operations
from peers.errors import NotDead

if TYPE_CHECKING:
    import argparse

    from peers.database.connection import Connection

_SHOWN: Final = 5
_COMPARED: Final = 1000
_NAMED: Final = {"kind": "kind", "queue": "queue", "error_type": "error type", "frame": "frame"}
_PLURALS: Final = {
    "kind": "kinds",
    "queue": "queues",
    "error_type": "error types",
    "frame": "frames",
}


def dead_filter(args: argparse.Namespace, connection: Connection) -> Filter:
    """Return the filter that the options describe; --cause-of adds those of its task."""
    wanted = filter_of(args, connection)
    if args.cause_of is not None:
        letter = dead_queries.dead_letter(connection, args.cause_of)
        if letter is None:
            raise not_dead_error(connection, args, args.cause_of)
        same = {key: letter[key] for key in ("kind", "error_type", "frame")}
        wanted |= {key: value for key, value in same.items() if value is not None}
    return wanted


def not_dead_error(connection: Connection, args: argparse.Namespace, id: int) -> NotDead:
    """Return the error for a task that is no dead letter. Raises TaskNotFound if there is none."""
    sentence = perform(connection, operations.explain(id))
    return NotDead(
        f"task {id} is not a dead letter. {sentence}", f"`{advice(args, 'dead list')}` lists them."
    )


def say_near_misses(connection: Connection, args: argparse.Namespace, wanted: Filter) -> None:
    """Say on stderr that no dead letter matches, and which ones nearly do."""
    if not wanted or not dead_queries.values(connection, "queue", 1):
        output.say("no dead letters")
        say_if_kind_is_unknown(connection, args)
        return
    said = False
    for key, noun in _NAMED.items():
        if key in wanted and (sentence := _of_value(connection, key, noun, str(wanted[key]))):
            output.say(sentence)
            said = True
    if not said:
        output.say("no dead letter matches")
    say_if_kind_is_unknown(connection, args)
    if len(wanted) > 1:
        _say_without(connection, wanted)


def _of_value(connection: Connection, key: str, noun: str, wanted: str) -> str | None:
    """Return which values there are, if no dead letter has the wanted one."""
    values = dict(dead_queries.values(connection, key, _COMPARED))
    if wanted in values:
        return None
    near = difflib.get_close_matches(wanted, values, n=1)
    question = f' (did you mean "{near[0]}"?)' if near else ""
    shown = ", ".join(f"{value} ({tasks:,})" for value, tasks in list(values.items())[:_SHOWN])
    more = ", …" if len(values) > _SHOWN else ""
    text = f"no dead letter of {noun} {wanted}{question}; {_PLURALS[key]} with dead letters: "
    return output.one_line(text + shown + more)


def _say_without(connection: Connection, wanted: Filter) -> None:
    """Say how many would match without one of the options."""
    for key in wanted:
        rest = {other: value for other, value in wanted.items() if other != key}
        matching = len(dead_queries.ids(connection, rest))
        if matching:
            output.say(f"{output.count(matching, 'dead letter')} without {OPTIONS[key]}")
