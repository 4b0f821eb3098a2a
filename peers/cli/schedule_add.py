"""`peers schedule add`: add a schedule and show when it is due."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final, get_args

from peers.cli.database import connected, perform, perform_for_kind
from peers.cli.parser import (
    TIME_FORM,
    add_command,
    duration,
    instant,
    json_object,
    key_values,
    name,
)
from peers.client import schedule_operations as operations
from peers.errors import NotPermitted
from peers.schedules import Misfire, Overlap

if TYPE_CHECKING:
    from datetime import datetime

    from peers.cli.parser import Commands
    from peers.database.connection import Connection

NEXT_SHOWN: Final = 5
TIME: Final = "%Y-%m-%d %H:%M:%S %Z"


def register_add(group: Commands) -> None:
    """Declare `add`."""
    add = add_command(
        group, "add", _add, "add a schedule and show its next due times",
        example=(
            "peers schedule add nightly report.send --cron '0 3 * * *' --timezone Europe/Berlin",
            "peers schedule add sync shop.sync --every 15m --expect-within 5m full=false",
        ),
        usage="peers schedule add NAME KIND (--cron CRON | --every DURATION) [key=value ...]"
        " [options]",
        accepts=lambda word: not word.startswith("-"),
    )  # fmt: skip
    add_name(add)
    add.add_argument("kind", type=name, metavar="KIND", help="the kind of its tasks")
    when = add.add_argument_group("when")
    either = when.add_mutually_exclusive_group(required=True)
    either.add_argument("--cron", metavar="CRON", help='such as "0 2 * * mon-fri" or @daily')
    either.add_argument("--every", type=duration, metavar="DURATION", help="such as 15m")
    when.add_argument(
        "--timezone", metavar="ZONE", default="UTC",
        help="time zone of --cron, such as Europe/Berlin (default: UTC)",
    )  # fmt: skip
    when.add_argument(
        "--anchor",
        type=instant,
        metavar="TIME",
        help=f"first due time of --every ({TIME_FORM})",
    )
    when.add_argument(
        "--jitter", type=duration, metavar="DURATION", help="start tasks up to this much later"
    )
    tasks = add.add_argument_group("its tasks")
    tasks.add_argument(
        "--args", type=json_object, metavar="JSON", default={},
        help="a JSON object (key=value adds to it)",
    )  # fmt: skip
    tasks.add_argument(
        "--queue", type=name, metavar="NAME",
        help='queue (default: the handler\'s, or "default" if no peer has had one)',
    )  # fmt: skip
    tasks.add_argument(
        "--priority", type=int, metavar="N",
        help="smaller runs first (default: the handler's, or 100 if no peer has had one)",
    )  # fmt: skip
    tasks.add_argument("--max-attempts", type=int, metavar="N", help="attempts of each task")
    tasks.add_argument("--timeout", type=duration, metavar="DURATION", help="of each attempt")
    policy = add.add_argument_group("policies")
    policy.add_argument(
        "--misfire", choices=get_args(Misfire),
        help="which due times run that were missed while no peer was running (default: latest)",
    )  # fmt: skip
    policy.add_argument(
        "--catch-up", type=duration, metavar="DURATION",
        help="a missed due time that is older never runs (default: 24h)",
    )  # fmt: skip
    policy.add_argument(
        "--overlap", choices=get_args(Overlap),
        help="what happens while an earlier run is unfinished (default: allow)",
    )  # fmt: skip
    policy.add_argument(
        "--expect-within", type=duration, metavar="DURATION",
        help="raise an alert if no run has completed so long after a due time",
    )  # fmt: skip
    add.add_argument("--replace", action="store_true", help="change the schedule if it exists")


def add_name(parser: argparse.ArgumentParser) -> None:
    """Add the argument NAME."""
    parser.add_argument("name", type=name, metavar="NAME", help="name of the schedule")


def next_times(connection: Connection, name: str, count: int) -> list[datetime]:
    """Return the next due times of a schedule, in its time zone."""
    return perform(connection, operations.get_schedule(name)).next_times(count)


def _add(args: argparse.Namespace) -> int:
    names = (
        "cron", "every", "anchor", "timezone", "jitter", "queue", "priority", "max_attempts",
        "timeout", "misfire", "catch_up", "overlap", "expect_within",
    )  # fmt: skip
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    task_args = {**args.args, **key_values(args)}
    request = operations.add_schedule(args.name, args.kind, replace=args.replace, **given)
    with connected(args) as connection:
        perform_for_kind(connection, request, args.kind, given, args=task_args)
        done = f'schedule "{args.name}" is {"set" if args.replace else "added"}'
        try:
            times = next_times(connection, args.name, NEXT_SHOWN)
        except NotPermitted:  # a submitter may add it, and not read it
            print(done)
            return 0
    print(f"{done}; it is due next at")
    for time in times:
        print(f"  {time:{TIME}}")
    return 0
