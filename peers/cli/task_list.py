"""`peers tasks`: list tasks, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli import output, task_queries
from peers.cli.database import connected
from peers.cli.filters import add_task_options, filter_of, say_if_kind_is_unknown
from peers.cli.options import add_limit
from peers.cli.parser import add_command, advice
from peers.types import TaskState

if TYPE_CHECKING:
    import argparse

    from peers.cli.filters import Filter
    from peers.cli.parser import Commands
    from peers.cli.rows import Row

_LISTED: Final = 20


def register(commands: Commands) -> None:
    """Declare `tasks`."""
    tasks = add_command(
        commands,
        "tasks",
        _tasks,
        "list tasks, newest first",
        example=(
            "peers tasks",
            "peers tasks --kind thumbs.make --state ready",
            "peers tasks --since 1h --limit 100 --json | jq '.tasks[].args'",
        ),
        reads=True,
        epilog="It finds all tasks of a graph, and all that are blocked, scheduled, ready, running "
        f"or dead if --state says so. Of other tasks it looks at the newest "
        f"{task_queries.NEWEST_READ:,}.",
    )
    tasks.add_argument(
        "--state",
        choices=[state.value for state in TaskState],
        metavar="STATE",
        help=f"only this state: {', '.join(state.value for state in TaskState)}",
    )
    add_limit(tasks, _LISTED)
    add_task_options(tasks, since="were submitted")


def _tasks(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        wanted = filter_of(args, connection, task_queries.KEYS)
        found = task_queries.tasks(connection, wanted, args.limit + 1)
        if not found and not args.json:
            output.say(_nothing(wanted))
            say_if_kind_is_unknown(connection, args)
            return 0
    is_more = len(found) > args.limit
    found = found[: args.limit]
    if args.json:
        output.document({"tasks": found, "is_more": is_more})
        return 0
    _print(found)
    if is_more:
        output.say(f"… and more: --limit {args.limit * 10} shows up to {args.limit * 10:,}")
    output.say(f"hint: `{advice(args, 'explain ID')}` says why a task is not running.")
    return 0


def _nothing(wanted: Filter) -> str:
    if task_queries.source_of(wanted) == "newest" and wanted:
        return f"no task matches among the newest {task_queries.NEWEST_READ:,}"
    return "no task matches" if wanted else "no tasks"


def _print(found: list[Row]) -> None:
    output.table(
        ("TASK", "STATE", "KIND", "QUEUE", "ATTEMPT", "SUBMITTED", "ARGS"),
        [
            (
                task["task_id"],
                task["state"],
                task["kind"],
                task["queue"],
                task["attempt"],
                f"{output.span(task['created_ago_seconds'])} ago",
                task["args"],
            )
            for task in found
        ],
        whole=("STATE",),
    )
