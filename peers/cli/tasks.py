"""`peers change`, `pause`, `resume`: change tasks and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.cli import output, queries
from peers.cli.argument_types import TIME_FORM, duration, instant, json_object, name, task_id
from peers.cli.database import connected, perform
from peers.cli.options import add_reason
from peers.cli.parser import add_command
from peers.cli.wording import in_words_of_the_shell
from peers.client import operations
from peers.errors import PeersError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from peers.cli.parser import Commands


def register(commands: Commands) -> None:
    """Declare the commands of this file."""
    _register_change(commands)
    for verb, run, summary in (
        ("pause", _pause, "stop claiming from a queue (running tasks go on)"),
        ("resume", _resume, "resume claiming from a paused queue"),
    ):
        command = add_command(commands, verb, run, summary, example=f"peers {verb} mail")
        command.add_argument("queue", type=name, metavar="QUEUE", help="name of a queue")
        add_reason(command)


def _register_change(commands: Commands) -> None:
    change = add_command(
        commands, "change", _change, "change a task that has not started",
        example="peers change 42 --priority 10 --in 5m",
    )  # fmt: skip
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
    output.tell(f'queue "{args.queue}" is paused; running tasks go on')
    if not known:
        output.say(
            f'No peer serves a queue "{args.queue}", and no task waits in it. Check the name.'
        )
    return 0


def _resume(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        paused = queries.is_paused(connection, args.queue)
        perform(connection, operations.resume(args.queue, reason=args.reason))
    output.tell(f'queue "{args.queue}" {"is resumed" if paused else "was not paused"}')
    return 0
