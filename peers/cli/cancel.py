"""`peers cancel`: cancel tasks by id or by a filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.cli import bulk, output, queries, task_queries
from peers.cli.database import connected, perform
from peers.cli.filters import add_bulk_options, add_task_options, filter_of, require_one_way
from peers.cli.parser import add_command, task_id
from peers.cli.tasks import each
from peers.client import operations
from peers.errors import PeersError
from peers.types import TaskState

if TYPE_CHECKING:
    import argparse

    from peers.cli.parser import Commands
    from peers.database.connection import Connection

_KEYS: Final = ("kind", "queue", "state", "graph", "since", "until")


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
    add_bulk_options(cancel)
    add_task_options(cancel, since="were submitted")


def _cancel(args: argparse.Namespace) -> int:
    require_one_way(args)
    with connected(args) as connection:
        if args.ids and not args.dry_run and args.reason is None:
            return _cancel_each(connection, args)
        wanted = {"ids": args.ids} if args.ids else filter_of(args, connection, _KEYS)
        ids = args.ids or task_queries.unfinished_ids(connection, wanted)
        if not ids:
            output.say("no task matches that waits or runs")
            if args.kind is not None and not queries.is_known_kind(connection, args.kind):
                output.say(f'No peer has a handler for the kind "{args.kind}". Check the name.')
        if args.dry_run:
            effect = bulk.preview(connection, args, "cancel", wanted) if ids else bulk.NOTHING
            tasks = bulk.said_tasks("task", effect.tasks, ids)
            print(f"would cancel {tasks}{_children(effect)}")
            output.say("hint: nothing was changed; the same command without --dry-run does it.")
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
