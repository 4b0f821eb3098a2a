"""`peers dead show`: show one dead letter with its failures, its log and what it holds."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from peers.cli import dead_queries, output
from peers.cli.argument_types import task_id
from peers.cli.bulk import IDS_SHOWN
from peers.cli.database import connected
from peers.cli.dead_filter import not_dead_error
from peers.cli.parser import add_command, advice

if TYPE_CHECKING:
    import argparse

    from peers.cli.exact_json import Json
    from peers.cli.parser import Commands
    from peers.cli.rows import Row

_ARGS_SHOWN: Final = 2000
_LOG_LINES: Final = 20
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:]*m")


def register(group: Commands) -> None:
    """Declare `dead show`."""
    show = add_command(
        group,
        "show",
        _show,
        "show one dead letter with its failures, its log and the children that it holds",
        example="peers dead show 42",
        reads=True,
    )
    show.add_argument("id", type=task_id, metavar="ID", help="id of a dead task")


def _show(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        letter = dead_queries.dead_letter(connection, args.id)
        if letter is None:
            raise not_dead_error(connection, args, args.id)
        held = dead_queries.held_kinds(connection, [args.id], IDS_SHOWN)
        graph = dead_queries.graph_of(connection, args.id)
        log = dead_queries.last_log(connection, args.id)
    if args.json:
        output.document({**letter, "graph_id": graph, "held_descendants": held, "log": log})
        return 0
    _print_letter(letter, graph, held)
    if log is not None:
        _print_log(args, log)
    _say_next(args, graph)
    return 0


def _say_next(args: argparse.Namespace, graph: int | None) -> None:
    retry, discard = (advice(args, f"dead {verb} {args.id}") for verb in ("retry", "discard"))
    same = advice(args, f"dead list --cause-of {args.id}")
    output.say(f"hint: fix the cause, then `{retry}`, or `{discard}` to give it up.")
    output.say(f"hint: `{same}` lists the dead letters with the same cause.")
    if graph is not None:
        output.say(f"hint: `{advice(args, f'graph show {graph}')}` shows its graph.")


def _print_letter(letter: Row, graph: int | None, held: list[Row]) -> None:
    print(
        output.one_line(f"task {letter['task_id']}, kind {letter['kind']}, queue {letter['queue']}")
    )
    ago = output.span(letter["died_ago_seconds"])
    lines = [
        ("died", f"{letter['died_at']:{output.TIME} %Z}, {ago} ago"),
        ("created", f"{letter['created_at']:{output.TIME} %Z} by {letter['submitter']}"),
        ("raised in", letter["frame"] or ""),
        ("graph", "" if graph is None else str(graph)),
        ("holds", held_in_words(letter["held_children"], held)),
        ("args", _short(letter["args"])),
        ("metadata", _short(letter["metadata"])),
    ]
    for label, value in lines:
        if value:
            print(f"  {label:<11}{output.readable(value)}")
    for failure in letter["failures"].parsed() if letter["failures"] else ():
        _print_failure(failure)


def _print_log(args: argparse.Namespace, log: Row) -> None:
    """Print the end of what an attempt has printed and logged."""
    lines = output.readable(_COLOUR.sub("", log["text"])).splitlines()
    print(f"\nlog of attempt {log['attempt']}")
    if log["cut"] or len(lines) > _LOG_LINES:
        print(f"    … `{advice(args, f'log {args.id}')}` shows more")
    for line in lines[-_LOG_LINES:]:
        print(f"    {line}".rstrip())


def held_in_words(children: int, held: list[Row]) -> str:
    """Return how many children wait for a dead letter, and all tasks that wait below it."""
    if not children:
        return ""
    kinds = "; ".join(kind_with_ids(row) for row in held)
    return f"{output.count(children, 'child', 'children')}; waiting below it: {kinds}"


def kind_with_ids(row: Row) -> str:
    """Return a kind with its number of tasks and some of their ids."""
    more = ", …" if row["tasks"] > len(row["task_ids"]) else ""
    ids = ", ".join(map(str, row["task_ids"]))
    return f"{row['tasks']:,} {output.one_line(row['kind'])} ({ids}{more})"


def _short(document: Json | None) -> str:
    if document is None:
        return ""
    more = " (--json shows all)" if len(document) > _ARGS_SHOWN else ""
    return output.cut(document, _ARGS_SHOWN) + more


def _print_failure(failure: dict[str, Any]) -> None:
    """Print one failed attempt, an element of `failures` in peers.dead_letter."""
    details = [
        f"failed {datetime.fromisoformat(failure['failed_at']):{output.TIME} %Z}",
        f"on {failure['host'] or 'an unknown host'}, pid {failure['pid']}",
        f"signal {failure['exit_signal']}" if failure["exit_signal"] else "",
        "" if failure["exit_code"] is None else f"exit code {failure['exit_code']}",
    ]
    print()
    print(output.one_line(f"attempt {failure['attempt']} {', '.join(filter(None, details))}"))
    text = failure["traceback"] or f"{failure['error_type']}: {failure['error_message']}"
    for line in output.readable(text).splitlines():
        print(f"    {line}".rstrip())
