"""`peers explain`: say why a task is not running, or how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.cli import hints, output, queries
from peers.cli.database import connected, perform
from peers.cli.output import span
from peers.cli.parser import add_command, task_id
from peers.client import operations

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands


def register(commands: Commands) -> None:
    """Declare `explain`."""
    explain = add_command(
        commands, "explain", _explain, "say why a task is not running, or how it ended", reads=True
    )
    explain.add_argument("id", type=task_id, metavar="ID", help="id of a task")


def _explain(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        sentence = perform(connection, operations.explain(args.id))
        task = queries.task(connection, args.id)
        failures = queries.failures(connection, args.id)
    if args.json:
        output.document({**task, "explanation": sentence, "failures": failures})
        return 0
    kind, queue = task["kind"].parsed(), task["queue"].parsed()
    print(output.one_line(f"task {args.id}, kind {kind}, queue {queue}"))
    print(output.readable(sentence))
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
    for hint in hints.of_task(args, task, sentence):
        output.say(f"hint: {hint}")
    return 0
