"""`peers explain`: say why a task is not running, or how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.cli import hints, output, queries
from peers.cli.argument_types import task_id
from peers.cli.database import connected, perform
from peers.cli.output import span
from peers.cli.parser import add_command
from peers.cli.tasks import each
from peers.client import operations

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands
    from peers.database.connection import Connection


def register(commands: Commands) -> None:
    """Declare `explain`."""
    explain = add_command(
        commands,
        "explain",
        _explain,
        "say why a task is not running, or how it ended",
        reads=True,
        example="peers explain 42",
    )
    explain.add_argument("ids", type=task_id, nargs="+", metavar="ID", help="id of a task")


def _explain(args: argparse.Namespace) -> int:
    if args.json and len(args.ids) > 1:
        args.parser.error("--json takes one id")
    with connected(args) as connection:

        def explain(id: int) -> None:
            if id != args.ids[0]:
                print()
            _explain_one(args, connection, id)

        return each(args, args.ids, explain)


def _explain_one(args: argparse.Namespace, connection: Connection, id: int) -> None:
    sentence = perform(connection, operations.explain(id))
    task = queries.task(connection, id)
    failures = queries.failures(connection, id)
    if args.json:
        output.document({**task, "explanation": sentence, "failures": failures})
        return
    kind, queue = task["kind"].parsed(), task["queue"].parsed()
    print(output.one_line(f"task {id}, kind {kind}, queue {queue}"))
    print(output.readable(hints.without_hints(sentence)))
    if failures:
        print()
        output.table(
            ("ATTEMPT", "FAILED", "HOST", "ERROR"),
            [
                (
                    failure["attempt"],
                    f"{span(failure['ago_seconds'])} ago",
                    failure["host"],
                    f"{failure['error_type']}: {failure['error_message']}",
                )
                for failure in failures
            ],
        )
    for hint in hints.of_task(args, task, id, sentence):
        output.say(f"hint: {hint}")
