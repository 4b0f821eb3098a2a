"""`peers prune`: delete what ended long ago, once. Peers with a retention do it all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from peers.cli import output
from peers.cli.argument_types import age
from peers.cli.database import connected, persistently
from peers.cli.options import add_dry_run, add_reason
from peers.cli.parser import add_command
from peers.cli.rows import rows
from peers.database import functions
from peers.database.rows import Pruned, PrunedDead

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from peers.cli.parser import Commands
    from peers.database.connection import Connection

S = TypeVar("S", Pruned, PrunedDead)
# what peers.prune_schedule_runs deletes
_OLD_RUNS: Final = """
    select count(*) as runs from peers.schedule_run o
    where o.recorded_at < peers.now() - least(%(older_than)s::interval, interval '1000 years')
      and not exists (
          select from peers.task t
          where t.id = o.task_id and t.state not in ('completed', 'cancelled'))
      and not exists (
          select from peers.schedule s
          where o.task_id is not null and s.name = o.schedule and s.expected_due_at <= o.due_at)
"""


def register(commands: Commands) -> None:
    """Declare `prune`."""
    prune = add_command(
        commands,
        "prune",
        _prune,
        "delete tasks and runs of schedules that ended long ago",
        example="peers prune --keep-completed 30d --keep-dead 90d",
    )
    prune.add_argument(
        "--keep-completed",
        type=age,
        metavar="DURATION",
        help="delete completed and cancelled tasks, and runs of schedules, that ended longer ago, "
        "such as 30d",
    )
    prune.add_argument(
        "--keep-dead",
        type=age,
        metavar="DURATION",
        help="delete dead letters that died longer ago, and cancel the tasks that wait for them",
    )
    add_dry_run(prune)
    add_reason(prune)


def _prune(args: argparse.Namespace) -> int:
    if args.keep_completed is None and args.keep_dead is None:
        args.parser.error("say what to delete: --keep-completed 30d, --keep-dead 90d, or both")
    parts: list[str] = []
    with connected(args) as connection:
        if args.keep_dead is not None:
            parts += _prune_dead(connection, args, args.keep_dead)
        if args.keep_completed is not None:
            parts += _prune_completed(connection, args, args.keep_completed)
    print(f"{'would delete' if args.dry_run else 'deleted'} {' and '.join(parts)}")
    return 0


def _prune_dead(
    connection: Connection, args: argparse.Namespace, older_than: timedelta
) -> list[str]:
    deleted = children = 0
    for step in _steps(functions.prune_dead, connection, args, older_than):
        deleted += step.deleted
        children += step.children
    letters = output.count(deleted, "dead letter")
    cancelled = output.count(children, "task that waits for them", "tasks that wait for them")
    return [f"{letters} (and cancel {cancelled})" if children else letters]


def _prune_completed(
    connection: Connection, args: argparse.Namespace, older_than: timedelta
) -> list[str]:
    deleted = runs = 0
    for step in _steps(functions.prune, connection, args, older_than):
        deleted += step.deleted
    if args.dry_run:
        [row] = rows(connection, _OLD_RUNS, older_than=older_than)
        runs = row["runs"]
    else:
        while found := persistently(functions.prune_schedule_runs, connection, older_than):
            runs += found
    tasks = output.count(deleted, "task")
    return [tasks, f"{output.count(runs, 'run')} of schedules"] if runs else [tasks]


def _steps(
    prune: Callable[..., S], connection: Connection, args: argparse.Namespace, older_than: timedelta
) -> Iterator[S]:
    """Call a function that prunes until it has finished, each time in its own transaction."""
    while True:
        step = persistently(prune, connection, older_than, dry_run=args.dry_run, reason=args.reason)
        yield step
        if step.finished:
            return
