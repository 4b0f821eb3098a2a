"""`peers cancel`, `change`, `pause`, `resume`: change tasks and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.cli import output
from peers.cli.database import connected, persistently, rows
from peers.cli.exact_json import written
from peers.cli.parser import add_command, duration, instant, json_object, name, task_id
from peers.database import functions
from peers.errors import PeersError
from peers.types import TaskState

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from peers.cli.parser import Commands


def register(commands: Commands) -> None:
    """Declare the commands of this file."""
    cancel = add_command(
        commands, "cancel", _cancel, "cancel tasks (the handler of a running task is stopped)"
    )
    cancel.add_argument("ids", type=task_id, nargs="+", metavar="ID")
    change = add_command(commands, "change", _change, "change a task that has not started")
    change.add_argument("id", type=task_id, metavar="ID")
    change.add_argument("--priority", type=int, metavar="N", help="smaller runs first")
    when = change.add_mutually_exclusive_group()
    when.add_argument(
        "--in",
        type=duration,
        dest="delay",
        metavar="DURATION",
        help="do not run before this much time",
    )
    when.add_argument(
        "--at",
        type=instant,
        dest="scheduled_at",
        metavar="TIME",
        help="do not run before this time (ISO 8601)",
    )
    change.add_argument("--args", type=json_object, metavar="JSON", help="new args")
    change.add_argument("--max-attempts", type=int, metavar="N")
    change.add_argument(
        "--timeout", type=duration, metavar="DURATION", help="timeout of each attempt"
    )
    pause = add_command(
        commands, "pause", _pause, "stop claiming from a queue (running tasks go on)"
    )
    pause.add_argument("queue", type=name, metavar="QUEUE")
    resume = add_command(commands, "resume", _resume, "resume claiming from a paused queue")
    resume.add_argument("queue", type=name, metavar="QUEUE")


def each(ids: Sequence[int], act: Callable[[int], None]) -> int:
    """Apply `act` to every task, even after an error; return the exit code of the first error."""
    code = 0
    for task in ids:
        try:
            act(task)
        except PeersError as error:
            output.complain(error)
            code = code or error.exit_code
    return code


def _cancel(args: argparse.Namespace) -> int:
    with connected(args) as connection:

        def cancel(id: int) -> None:
            state = persistently(functions.cancel, connection, id)
            if state is TaskState.COMPLETED:
                raise PeersError(f"task {id} is completed and cannot be cancelled")
            told = ": its handler is being stopped" if state is TaskState.RUNNING else ""
            print(f"task {id} is {state}{told}")

        return each(args.ids, cancel)


def _change(args: argparse.Namespace) -> int:
    given = (
        args.priority,
        args.delay,
        args.scheduled_at,
        args.args,
        args.max_attempts,
        args.timeout,
    )
    if all(value is None for value in given):
        args.parser.error("name what to change, such as --priority 10")
    new_args = None if args.args is None else written(args.args).encode()
    with connected(args) as connection:
        if args.delay is not None:  # by the database's clock
            query = "select peers.now() + %(delay)s as due_at"
            args.scheduled_at = rows(connection, query, delay=args.delay)[0]["due_at"]
        persistently(
            functions.change,
            connection,
            args.id,
            args.priority,
            args.scheduled_at,
            new_args,
            args.max_attempts,
            args.timeout,
        )
    print(f"task {args.id} is changed")
    return 0


def _pause(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        persistently(functions.pause, connection, args.queue)
        seen = (
            "select from peers.queue_status"
            " where queue = %(queue)s and running + ready + scheduled + blocked > 0"
        )
        served = "select from peers.peer_status where alive and queues ? %(queue)s"
        known = rows(connection, seen, queue=args.queue) or rows(
            connection, served, queue=args.queue
        )
    print(f'queue "{args.queue}" is paused; running tasks go on')
    if not known:
        output.say(
            f'No peer serves a queue "{args.queue}", and no task waits in it. Check the name.'
        )
    return 0


def _resume(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        query = "select from peers.paused_queue where queue = %(queue)s"
        paused = rows(connection, query, queue=args.queue)
        persistently(functions.resume, connection, args.queue)
    print(f'queue "{args.queue}" {"is resumed" if paused else "was not paused"}')
    return 0
