"""`peers explain`: say why a task is not running, or how it ended."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from peers.cli import output, queries
from peers.cli.database import connected, perform
from peers.cli.output import span
from peers.cli.parser import add_command, advice, task_id
from peers.client import operations

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from peers.cli.parser import Commands


_LIMIT: Final = re.compile(r'^Ready, but limit "([^"]*)" is ')


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
    for hint in _hints(args, task, sentence):
        output.say(f"hint: {hint}")
    return 0


def _hints(args: argparse.Namespace, task: dict[str, Any], sentence: str) -> Iterator[str]:
    """Yield the commands for the functions of SQL that the sentence names."""
    state, graph = task["state"].parsed(), task["graph_id"].parsed()
    if state == "dead":
        yield f"`{advice(args, f'dead show {args.id}')}` has the tracebacks."
        retry, discard = (advice(args, f"dead {verb} {args.id}") for verb in ("retry", "discard"))
        yield f"`{retry}` runs it again, `{discard}` gives it up."
    if state == "blocked" and "peers.retry(" in sentence:
        yield f"`{advice(args, 'dead retry ID')}` runs a dead parent again."
    if state == "ready" and (limit := _LIMIT.search(sentence)):
        shown = shlex.quote(limit[1])
        yield f"`{advice(args, f'limit show {shown}')}` shows what runs and waits under the limit."
    if state == "ready" and "peers.resume(" in sentence:
        queue = shlex.quote(task["queue"].parsed())
        yield f"`{advice(args, f'resume {queue}')}` resumes the queue."
    if state != "cancelled" and f"peers.resume_graph({graph})" in sentence:
        yield f"`{advice(args, f'graph resume {graph}')}` resumes the graph."
