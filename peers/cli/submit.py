"""`peers submit`: submit one task from a shell."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

from peers.cli.database import connected, perform_for_kind
from peers.cli.output import say
from peers.cli.parser import (
    TIME_FORM,
    add_command,
    duration,
    graph_id,
    instant,
    json_object,
    key_values,
    name,
    task_ids,
    text,
)
from peers.client.options import Options, options_document
from peers.client.statements import Request, submit_statement
from peers.spans import FORMS
from peers.types import OnDuplicate, ParentFailure, UniqueWhile

if TYPE_CHECKING:
    from datetime import timedelta

    from peers.cli.parser import Commands

_STDIN: Final = "-"
_OPTIONS: Final = (
    "queue",
    "priority",
    "delay",
    "scheduled_at",
    "max_attempts",
    "timeout",
    "depends_on",
    "on_parent_failure",
    "idempotency_key",
    "metadata",
    "graph",
    "unique_key",
    "unique_while",
    "on_duplicate",
    "wait",
    "max_wait",
)


def register(commands: Commands) -> None:
    """Declare `submit`."""
    parser = add_command(
        commands,
        "submit",
        _submit,
        "submit a task and print its id",
        example=(
            "peers submit thumbs.make path=/srv/a.png width=80",
            "peers submit report.send --in 2h --queue mail --args '{\"users\": [1, 2]}'",
        ),
        usage="peers submit KIND [key=value ...] [options]",
        accepts=lambda word: not word.startswith("-"),
    )
    parser.add_argument("kind", type=name, metavar="KIND", help="the kind: the name of a handler")
    args = parser.add_argument_group(
        "args", "key=value: the value is JSON if it parses as JSON, otherwise a string."
    )
    args.add_argument(
        "--args",
        type=_args,
        metavar="JSON",
        default={},
        help="a JSON object, or - for standard input (key=value adds to it)",
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of the task")
    group.add_argument(
        "--queue",
        type=name,
        metavar="NAME",
        help='its queue (default: the handler\'s, or "default" if no peer has had one)',
    )
    group.add_argument(
        "--priority",
        type=int,
        metavar="N",
        help="smaller runs first (default: the handler's, or 100 if no peer has had one)",
    )
    when = group.add_mutually_exclusive_group()
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
    group.add_argument(
        "--max-attempts",
        type=int,
        metavar="N",
        help="attempts before the task is dead (default: what the handler declares)",
    )
    group.add_argument(
        "--timeout",
        type=duration,
        metavar="DURATION",
        help="timeout of each attempt (default: what the handler declares)",
    )
    group.add_argument(
        "--after",
        type=task_ids,
        action="extend",
        dest="depends_on",
        metavar="ID",
        help="wait for this task (repeat the option, or separate ids by commas)",
    )
    group.add_argument(
        "--on-parent-failure",
        choices=[str(policy) for policy in ParentFailure],
        help="if a parent dies: wait until it is retried (hold, the default), cancel this task, or "
        "run it",
    )
    group.add_argument(
        "--key",
        type=text,
        dest="idempotency_key",
        metavar="KEY",
        help="idempotency key (if a task has it already, print that task's id)",
    )
    group.add_argument(
        "--metadata", type=json_object, metavar="JSON", help="JSON object for your own use"
    )
    group.add_argument("--graph", type=graph_id, metavar="ID", help="add the task to this graph")
    _add_unique_options(parser)


def _add_unique_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "unique key", "Tasks of one kind with the same key exist once. docs/unique.md has examples."
    )
    group.add_argument(
        "--unique-key",
        type=text,
        metavar="KEY",
        help="the key (if another task holds it, print that task's id)",
    )
    group.add_argument(
        "--unique-while",
        type=_unique_while,
        metavar="WHEN",
        help="how long a task holds its key: until it starts (waiting, the default), until it has "
        "ended (unfinished), or for a duration from now, such as 10m",
    )
    group.add_argument(
        "--on-duplicate",
        choices=[str(choice) for choice in OnDuplicate],
        help="if another task holds the key: keep it as it is (the default), replace its args and "
        "options if it has not started, or debounce: replace them and postpone its start",
    )
    group.add_argument(
        "--wait",
        type=duration,
        metavar="DURATION",
        help="debounce: start when this much time has passed without another submission",
    )
    group.add_argument(
        "--max-wait",
        type=duration,
        metavar="DURATION",
        help="debounce: start at the latest this long after the first submission",
    )


def _unique_while(value: str) -> str | timedelta:
    if value in list(UniqueWhile):
        return value
    try:
        return duration(value)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f'must be "waiting", "unfinished" or {FORMS}, not "{value}"'
        ) from None


def _args(value: str) -> dict[str, Any]:
    return json_object(sys.stdin.read() if value == _STDIN else value)


def _submit(args: argparse.Namespace) -> int:
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    exact = {"args": {**args.args, **key_values(args)}}
    if "metadata" in given:
        exact["metadata"] = given.pop("metadata")
    fields = options_document(args.kind, Options(**given))
    request = Request(submit_statement(fields), fields)
    with connected(args) as connection:
        task_id = perform_for_kind(connection, request, args.kind, given, **exact)
    print(task_id)
    if task_id.replaced:
        say(f"no new task: task {task_id} held the key and was replaced")
    elif not task_id.is_new:
        say(f"no new task: task {task_id} has the key")
    return 0
