"""`peers dead`: list, show, retry or discard dead letters."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, queries
from peers.cli.database import connected, perform
from peers.cli.exact_json import Json
from peers.cli.parser import (
    add_command,
    add_group,
    advice,
    graph_id,
    json_object,
    name,
    positive,
    task_id,
)
from peers.cli.tasks import each
from peers.client import operations
from peers.errors import NotDead

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from peers.cli.parser import Commands
    from peers.client.statements import Request
    from peers.database.connection import Connection

_LISTED: Final = 50
_ARGS_SHOWN: Final = 2000
_TIME: Final = "%Y-%m-%d %H:%M:%S %Z"


def register(commands: Commands) -> None:
    """Declare `dead` and its commands."""
    group = add_group(commands, "dead", "dead letters: tasks that failed for good")
    listing = add_command(group, "list", _list, "list dead letters, newest first", reads=True)
    listing.add_argument("--kind", type=name, metavar="KIND", help="only this kind")
    listing.add_argument("--queue", type=name, metavar="QUEUE", help="only this queue")
    listing.add_argument("--graph", type=graph_id, metavar="ID", help="only tasks of this graph")
    listing.add_argument(
        "--limit",
        type=positive,
        default=_LISTED,
        metavar="N",
        help=f"show at most N (default: {_LISTED})",
    )
    show = add_command(
        group, "show", _show, "show one dead letter with all its failures", reads=True
    )
    show.add_argument("id", type=task_id, metavar="ID", help="id of a dead task")
    retry = add_command(group, "retry", _retry, "retry dead letters with fresh attempts")
    retry.add_argument("--args", type=json_object, metavar="JSON", help="replace the args of each")
    discard = add_command(
        group,
        "discard",
        _discard,
        "discard dead letters (they and the children that they hold end cancelled)",
    )
    for command in (retry, discard):
        command.add_argument("ids", type=task_id, nargs="*", metavar="ID", help="id of a dead task")
        bulk = command.add_mutually_exclusive_group()
        bulk.add_argument("--kind", type=name, metavar="KIND", help="all dead letters of this kind")
        bulk.add_argument("--all", action="store_true", help="all dead letters")
        command.add_argument(
            "--graph",
            type=graph_id,
            metavar="ID",
            help="all dead letters of this graph (with --kind: that have both)",
        )


# ------------------------------------------------------------------------------------- reading


def _list(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        _require_graph(connection, args)
        found = queries.dead_letters(connection, args.kind, args.queue, args.graph, args.limit)
        known = args.kind is None or queries.is_known_kind(connection, args.kind)
    total = found[0]["total"] if found else 0
    for letter in found:
        del letter["total"]
    if args.json:
        output.document({"total": total, "dead_letters": found})
        return 0
    if not found:
        output.say("no dead letters")
        if not known:
            output.say(f'No peer has a handler for the kind "{args.kind}". Check the name.')
        return 0
    output.table(
        ("TASK", "KIND", "QUEUE", "ATTEMPTS", "DIED", "HOLDS", "ERROR"),
        [
            (
                letter["task_id"],
                letter["kind"],
                letter["queue"],
                letter["attempts"],
                f"{output.span(letter['died_ago_seconds'])} ago",
                letter["held_children"],
                f"{letter['error_type']}: {letter['error_message']}",
            )
            for letter in found
        ],
    )
    if total > len(found):
        output.say(f"… and {total - len(found):,} more: --limit {total} shows all")
    output.say(f"hint: `{advice(args, 'dead show ID')}` shows the tracebacks.")
    return 0


def _show(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        letter = queries.dead_letter(connection, args.id)
        if letter is None:
            raise _no_letter(connection, args)
    if args.json:
        output.document(letter)
        return 0
    _print_letter(letter)
    either, other = (advice(args, f"dead {verb} {args.id}") for verb in ("retry", "discard"))
    output.say(f"hint: `{either}` or `{other}`.")
    return 0


def _no_letter(connection: Connection, args: argparse.Namespace) -> NotDead:
    """Raise TaskNotFound if there is no such task."""
    sentence = perform(connection, operations.explain(args.id))
    return NotDead(
        f"task {args.id} is not a dead letter. {sentence}",
        f"`{advice(args, 'dead list')}` lists them.",
    )


def _print_letter(letter: dict[str, Any]) -> None:
    print(
        output.one_line(f"task {letter['task_id']}, kind {letter['kind']}, queue {letter['queue']}")
    )
    ago = output.span(letter["died_ago_seconds"])
    lines = [
        ("died", f"{letter['died_at']:{_TIME}}, {ago} ago"),
        ("created", f"{letter['created_at']:{_TIME}} by {letter['submitter']}"),
        ("holds", output.count(letter["held_children"], "child", "children")),
        ("args", _short(letter["args"])),
        ("metadata", _short(letter["metadata"])),
    ]
    for label, value in lines:
        if value:
            print(f"  {label:<9}{output.readable(value)}")
    for failure in letter["failures"].parsed() if letter["failures"] else ():
        _print_failure(failure)


def _short(document: Json | None) -> str:
    if document is None:
        return ""
    more = " (--json shows all)" if len(document) > _ARGS_SHOWN else ""
    return output.cut(document, _ARGS_SHOWN) + more


def _print_failure(failure: dict[str, Any]) -> None:
    """Print one failed attempt, an element of `failures` in peers.dead_letter."""
    details = [
        f"failed {datetime.fromisoformat(failure['failed_at']):{_TIME}}",
        f"on {failure['host'] or 'an unknown host'}, pid {failure['pid']}",
        f"signal {failure['exit_signal']}" if failure["exit_signal"] else "",
        "" if failure["exit_code"] is None else f"exit code {failure['exit_code']}",
    ]
    print()
    print(output.one_line(f"attempt {failure['attempt']} {', '.join(filter(None, details))}"))
    text = failure["traceback"] or f"{failure['error_type']}: {failure['error_message']}"
    for line in output.readable(text).splitlines():
        print(f"    {line}".rstrip())


# -------------------------------------------------------------------------------------- changing


def _retry(args: argparse.Namespace) -> int:
    exact = {} if args.args is None else {"args": args.args}
    return _act(args, "retried", operations.retry, exact)


def _discard(args: argparse.Namespace) -> int:
    return _act(args, "discarded", operations.discard, {})


def _act(
    args: argparse.Namespace,
    done: str,
    operation: Callable[[int], Request[int]],
    exact: dict[str, Any],
) -> int:
    """Perform the operation on each task in its own transaction, so that locks are short."""
    bulk = args.all or args.kind is not None or args.graph is not None
    if bulk == bool(args.ids):
        args.parser.error("name the tasks: ids, --kind KIND, --graph ID or --all")
    if args.all and args.graph is not None:
        args.parser.error("--graph and --all exclude each other")
    count = 0
    with connected(args) as connection:
        _require_graph(connection, args)
        ids = args.ids or queries.dead_ids(connection, args.kind, args.graph)

        def act(id: int) -> None:
            nonlocal count
            try:
                perform(connection, operation(id), **exact)
            except NotDead:
                if not bulk:  # in bulk, another session was faster
                    raise
            else:
                count += 1

        code = each(args, ids, act)
    print(f"{done} {output.count(count, 'dead letter')}")
    return code


def _require_graph(connection: Connection, args: argparse.Namespace) -> None:
    """Raise GraphNotFound if --graph names none. Its list of dead letters would just be empty."""
    if args.graph is not None:
        queries.graph(connection, args.graph)
