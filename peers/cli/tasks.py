"""`peers cancel`, `change`, `pause`, `resume`: change tasks and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peers.cli import output, queries
from peers.cli.database import connected, perform
from peers.cli.parser import (
    TIME_FORM,
    add_command,
    add_reason,
    duration,
    graph_id,
    instant,
    json_object,
    name,
    task_id,
    text,
)
from peers.cli.wording import in_words_of_the_shell
from peers.client import bulk_operations, operations
from peers.errors import PeersError
from peers.types import TaskState

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from peers.cli.parser import Commands


def register(commands: Commands) -> None:
    """Declare the commands of this file."""
    _register_cancel(commands)
    change = add_command(commands, "change", _change, "change a task that has not started")
    change.add_argument("id", type=task_id, metavar="ID", help="id of a task")
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
        help=f"do not run before this time ({TIME_FORM})",
    )
    change.add_argument("--args", type=json_object, metavar="JSON", help="replace the args")
    change.add_argument(
        "--max-attempts", type=int, metavar="N", help="attempts before the task is dead"
    )
    change.add_argument(
        "--timeout", type=duration, metavar="DURATION", help="timeout of each attempt"
    )
    pause = add_command(
        commands, "pause", _pause, "stop claiming from a queue (running tasks go on)"
    )
    pause.add_argument("queue", type=name, metavar="QUEUE", help="name of a queue")
    add_reason(pause)
    resume = add_command(commands, "resume", _resume, "resume claiming from a paused queue")
    resume.add_argument("queue", type=name, metavar="QUEUE", help="name of a queue")
    add_reason(resume)


def _register_cancel(commands: Commands) -> None:
    cancel = add_command(
        commands, "cancel", _cancel, "cancel tasks (the handler of a running task is stopped)"
    )
    cancel.add_argument("ids", type=task_id, nargs="*", metavar="ID", help="id of a task")
    many = cancel.add_argument_group("many tasks", "all of these must match")
    many.add_argument("--kind", type=name, metavar="KIND", help="unfinished tasks of this kind")
    many.add_argument("--queue", type=name, metavar="QUEUE", help="unfinished tasks of this queue")
    many.add_argument("--graph", type=graph_id, metavar="ID", help="unfinished tasks of this graph")
    many.add_argument(
        "--state", choices=("blocked", "scheduled", "ready", "running"),
        help="unfinished tasks in this state",
    )  # fmt: skip
    many.add_argument(
        "--error", type=text, metavar="TEXT",
        help='unfinished tasks whose last attempt failed with this in its "type: message"',
    )  # fmt: skip
    many.add_argument("--all", action="store_true", help="all unfinished tasks")
    add_reason(cancel, dry_run=True)


def each(args: argparse.Namespace, ids: Sequence[int], act: Callable[[int], None]) -> int:
    """Apply `act` to every task, even after an error; return the exit code of the first error."""
    code = 0
    for task in ids:
        try:
            act(task)
        except PeersError as error:
            in_words_of_the_shell(error, args)
            output.complain(error)
            code = code or error.exit_code
    return code


def _cancel(args: argparse.Namespace) -> int:
    filters = {
        field: getattr(args, field)
        for field in ("kind", "queue", "graph", "state", "error")
        if getattr(args, field) is not None
    }
    if args.all:
        filters["all"] = True
    if bool(args.ids) == bool(filters):
        args.parser.error(
            "name the tasks by ID, or by --kind, --queue, --graph, --state … or --all"
        )
    if filters:
        return _cancel_many(args, filters)
    if args.dry_run or args.reason:
        args.parser.error("--dry-run and --reason are for many tasks, such as --kind KIND")
    with connected(args) as connection:

        def cancel(id: int) -> None:
            state = perform(connection, operations.cancel(id))
            if state is TaskState.COMPLETED:
                raise PeersError(f"task {id} is completed and cannot be cancelled")
            note = ": its handler is being stopped" if state is TaskState.RUNNING else ""
            print(f"task {id} is {state}{note}")

        return each(args, args.ids, cancel)


def _cancel_many(args: argparse.Namespace, filters: dict[str, Any]) -> int:
    request = bulk_operations.cancel_tasks(
        dry_run=args.dry_run, reason=args.reason,
        **filters,
    )  # fmt: skip
    with connected(args) as connection:
        done = perform(connection, request)
    children = output.count(done.children, "task that waits for them", "tasks that wait for them")
    print(
        f"{'would cancel' if args.dry_run else 'cancelled'} {output.count(done.tasks, 'task')}"
        f"{f' and {children}' if done.children else ''}"
    )
    if done.tasks and not args.dry_run:
        output.say("Running ones among them are asked to stop.")
    return 0


def _change(args: argparse.Namespace) -> int:
    names = ("priority", "delay", "scheduled_at", "max_attempts", "timeout")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    exact = {} if args.args is None else {"args": args.args}
    if not given and not exact:
        args.parser.error("name what to change, such as --priority 10")
    with connected(args) as connection:
        perform(connection, operations.change(args.id, **given), **exact)
    print(f"task {args.id} is changed")
    return 0


def _pause(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        perform(connection, operations.pause(args.queue, reason=args.reason))
        known = queries.is_known_queue(connection, args.queue)
    print(f'queue "{args.queue}" is paused; running tasks go on')
    if not known:
        output.say(
            f'No peer serves a queue "{args.queue}", and no task waits in it. Check the name.'
        )
    return 0


def _resume(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        paused = queries.is_paused(connection, args.queue)
        perform(connection, operations.resume(args.queue, reason=args.reason))
    print(f'queue "{args.queue}" {"is resumed" if paused else "was not paused"}')
    return 0
