"""`peers explain`: say why a task is not running, or how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli import output
from peers.cli.database import connected, rows
from peers.cli.output import span
from peers.cli.parser import add_command, advice, task_id
from peers.database import functions

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands

_TASK: Final = """
    select column_.key as name, column_.value
    from peers.task t
    cross join lateral jsonb_each(to_jsonb(t) - 'token' - 'created_xid') as column_
    where t.id = %(id)s"""
_FAILURES: Final = """
    select attempt, failed_at, peers.now() - failed_at as ago_seconds, host, pid, peer_id,
           error_type, error_message, traceback, exit_signal, exit_code, retry_at
    from peers.failure where task_id = %(id)s order by id"""


def register(commands: Commands) -> None:
    """Declare `explain`."""
    explain = add_command(
        commands, "explain", _explain, "say why a task is not running, or how it ended", reads=True
    )
    explain.add_argument("id", type=task_id, metavar="ID")


def _explain(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        sentence = functions.explain(connection, args.id)
        task = {row["name"]: row["value"] for row in rows(connection, _TASK, id=args.id)}
        failures = rows(connection, _FAILURES, id=args.id)
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
    if task["state"].parsed() == "dead":
        output.say(f"hint: `{advice(args, f'dead show {args.id}')}` has the tracebacks.")
    return 0
