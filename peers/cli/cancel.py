"""`peers cancel`: cancel tasks by id or by a filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.cli import bulk, output, task_queries
from peers.cli.argument_types import task_id
from peers.cli.database import connected, perform
from peers.cli.filters import add_task_options, filter_of, require_one_way, say_if_kind_is_unknown
from peers.cli.options import add_dry_run, add_reason
from peers.cli.parser import add_command
from peers.cli.tasks import each
from peers.client import operations
from peers.errors import PeersError
from peers.types import TaskState

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands
    from peers.database.connection import Connection


def register(commands: Commands) -> None:
    """Declare `cancel`."""
    cancel = add_command(
        commands,
        "cancel",
        _cancel,
        "cancel tasks (the handler of a running task is stopped)",
        example=(
            "peers cancel 42 43",
            "peers cancel --kind thumbs.make --state ready --dry-run",
            'peers cancel --queue media --since 1h --reason "sent twice"',
        ),
    )
    cancel.add_argument("ids", type=task_id, nargs="*", metavar="ID", help="id of a task")
    cancel.add_argument(
        "--state",
        choices=task_queries.UNFINISHED,
        metavar="STATE",
        help=f"only this state: {', '.join(task_queries.UNFINISHED)}",
    )
    add_dry_run(cancel)
    add_reason(cancel)
    add_task_options(cancel, since="were submitted")


def _cancel(args: argparse.Namespace) -> int:
    require_one_way(args)
    with connected(args) as connection:
        if args.ids and not args.dry_run and args.reason is None:
            return _cancel_each(connection, args)
        wanted = {"ids": args.ids} if args.ids else filter_of(args, connection, task_queries.KEYS)
        ids = args.ids or task_queries.unfinished_ids(connection, wanted)
        if not ids:
            output.say("no task matches that waits or runs")
            say_if_kind_is_unknown(connection, args)
        if args.dry_run:
            effect = bulk.preview(connection, args, "cancel", wanted) if ids else bulk.NO_EFFECT
            tasks = bulk.tasks_with_ids("task", effect.tasks, ids)
            print(f"would cancel {tasks}{_children(effect)}")
            bulk.say_nothing_changed()
            return 0
        effect = bulk.apply(connection, args, "cancel", wanted, ids)
        stopping = task_queries.stopping(connection, ids)
    print(f"cancelled {output.count(effect.tasks, 'task')}{_children(effect)}")
    if stopping:
        handlers = output.count(stopping, "handler is", "handlers are")
        output.say(f"{handlers} being stopped: the tasks stay running until then.")
    return 0


def _children(effect: bulk.Effect) -> str:
    if not effect.children:
        return ""
    children = output.count(effect.children, "task that waits", "tasks that wait")
    return f"; {children} for them also cancelled"


def _cancel_each(connection: Connection, args: argparse.Namespace) -> int:
    def cancel(id: int) -> None:
        state = perform(connection, operations.cancel(id))
        if state is TaskState.COMPLETED:
            raise PeersError(f"task {id} is completed and cannot be cancelled")
        note = ": its handler is being stopped" if state is TaskState.RUNNING else ""
        print(f"task {id} is {state}{note}")

    return each(args, args.ids, cancel)
