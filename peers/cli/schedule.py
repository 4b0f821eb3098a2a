"""`peers schedule`: list, add, explain, pause, resume, run, backfill or remove schedules."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final, get_args

from peers.cli import output, queries
from peers.cli.database import connected, perform
from peers.cli.exact_json import TooDeepError
from peers.cli.parser import (
    add_command,
    add_group,
    advice,
    duration,
    instant,
    json_object,
    json_or_text,
    name,
    positive,
)
from peers.client import schedule_operations as operations
from peers.schedules import Misfire, Overlap

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from peers.cli.parser import Command, Commands
    from peers.client.statements import Request
    from peers.database.connection import Connection

_NEXT: Final = 5
_TIME: Final = "%Y-%m-%d %H:%M:%S %Z"


def register(commands: Commands) -> None:
    """Declare `schedule` and its commands."""
    group = add_group(commands, "schedule", "schedules: tasks that run at given times")
    add_command(group, "list", _list, "list schedules, and when they are due", reads=True)
    _register_add(group)
    changes: dict[str, tuple[Command, str]] = {
        "pause": (_pause, "pause a schedule: its due times are skipped (running tasks go on)"),
        "resume": (_resume, "resume a paused schedule"),
        "remove": (_remove, "delete a schedule (its tasks go on)"),
        "run": (_run, "submit a task of a schedule now and print its id"),
    }
    for verb, (command, summary) in changes.items():
        _add_name(add_command(group, verb, command, summary))
    explain = add_command(
        group, "explain", _explain, "say what became of a schedule's last due time", reads=True
    )
    _add_name(explain)
    explain.add_argument(
        "--at", type=instant, metavar="TIME", help="explain the last due time until then (ISO 8601)"
    )
    coming = add_command(
        group, "next", _show_next, "show the next due times in the schedule's time zone", reads=True
    )
    _add_name(coming)
    coming.add_argument(
        "--count", type=positive, default=_NEXT, metavar="N", help=f"how many (default: {_NEXT})"
    )
    backfill = add_command(
        group, "backfill", _backfill, "run due times of the past that have not fired"
    )
    _add_name(backfill)
    backfill.add_argument(
        "--from", type=instant, required=True, dest="from_at", metavar="TIME",
        help="the first due time (ISO 8601)",
    )  # fmt: skip
    backfill.add_argument(
        "--until", type=instant, dest="until_at", metavar="TIME",
        help="the last due time (default: now)",
    )  # fmt: skip


def _register_add(group: Commands) -> None:
    add = add_command(
        group, "add", _add, "add a schedule and show its next due times",
        usage="peers schedule add NAME KIND (--cron CRON | --every DURATION) [key=value ...]"
        " [options]",
        accepts=lambda word: not word.startswith("-"),
    )  # fmt: skip
    _add_name(add)
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
        "--anchor", type=instant, metavar="TIME", help="first due time of --every (ISO 8601)"
    )
    when.add_argument(
        "--jitter", type=duration, metavar="DURATION", help="start tasks up to this much later"
    )
    tasks = add.add_argument_group("its tasks")
    tasks.add_argument(
        "--args", type=json_object, metavar="JSON", default={},
        help="a JSON object (key=value adds to it)",
    )  # fmt: skip
    tasks.add_argument("--queue", type=name, metavar="NAME", help='queue (default: "default")')
    tasks.add_argument("--priority", type=int, metavar="N", help="smaller runs first")
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


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=name, metavar="NAME", help="name of the schedule")


# -------------------------------------------------------------------------------------- reading


def _list(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = queries.schedules(connection)
    any_peer = bool(found) and found[0]["any_peer"]
    for schedule in found:
        schedule["origin"] = _origin(schedule)
        del schedule["any_peer"]
    if args.json:
        output.document({"schedules": found})
        return 0
    if not found:
        output.say("no schedules")
        return 0
    output.table(
        ("NAME", "KIND", "WHEN", "ZONE", "NEXT", "LAST", "OUTCOME", "DECLARED"),
        [
            (
                each["name"],
                each["kind"],
                each["cron"] or f"every {output.span(each['every'])}",
                each["timezone"] if each["cron"] else "",
                _next(each),
                ""
                if each["last_due_at"] is None
                else f"{output.span(each['last_ago_seconds'])} ago",
                _outcome(each),
                each["origin"],
            )
            for each in found
        ],
    )
    if not any_peer:
        output.say("No peer is running: nothing fires.")
    for each in found:
        if each["late_since"] or each["failures"]:
            shown = output.one_line(each["name"])
            output.say(f"hint: `{advice(args, f'schedule explain {shown}')}` says what is wrong.")
            break
    return 0


def _next(schedule: dict[str, Any]) -> str:
    if schedule["paused_at"]:
        return "paused"
    if schedule["failures"]:
        return "failing"
    if schedule["next_due_at"] is None:
        return ""
    return f"in {output.span(schedule['next_in_seconds'])}"


def _outcome(schedule: dict[str, Any]) -> str:
    parts = [schedule["last_outcome"] or ""]
    if schedule["last_outcome"] == "skipped":
        parts.append(f"({schedule['last_reason']})")
    if schedule["last_task_id"]:
        parts.append(f"task {schedule['last_task_id']} {schedule['last_task_state'] or 'pruned'}")
    if schedule["late_since"]:
        parts.append("LATE")
    return " ".join(filter(None, parts))


def _origin(schedule: dict[str, Any]) -> str:
    """Say whether code declares it, and whether it is as the code says."""
    if not schedule["declared"]:
        return "no"
    if schedule["any_peer"] and not schedule["declaring_peers"]:
        return "no longer"
    return "changed by operator" if schedule["changed_by_operator"] else "yes"


def _explain(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        sentence = perform(connection, operations.explain_schedule(args.name, args.at))
    if args.json:
        output.document({"name": args.name, "explanation": sentence})
        return 0
    print(output.readable(sentence))
    return 0


def _show_next(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        times = _next_times(connection, args.name, args.count)
    if args.json:
        output.document({"name": args.name, "next": [time.isoformat() for time in times]})
        return 0
    for time in times:
        print(f"{time:{_TIME}}")
    return 0


def _next_times(connection: Connection, name: str, count: int) -> list[datetime]:
    return perform(connection, operations.get_schedule(name)).next_times(count)


# ------------------------------------------------------------------------------------- changing


def _add(args: argparse.Namespace) -> int:
    names = (
        "cron", "every", "anchor", "timezone", "jitter", "queue", "priority", "max_attempts",
        "timeout", "misfire", "catch_up", "overlap", "expect_within",
    )  # fmt: skip
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    request = operations.add_schedule(args.name, args.kind, replace=args.replace, **given)
    with connected(args) as connection:
        perform(connection, request, args={**args.args, **_pairs(args)})
        times = _next_times(connection, args.name, _NEXT)
    print(f'schedule "{args.name}" is {"set" if args.replace else "added"}; it is due next at')
    for time in times:
        print(f"  {time:{_TIME}}")
    return 0


def _pairs(args: argparse.Namespace) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for word in args.rest:
        key, equals, value = word.partition("=")
        if not key or not equals:
            args.parser.error(f'"{word}" is not key=value')
        try:
            pairs[key] = json_or_text(value)
        except TooDeepError as error:
            args.parser.error(f'the value of "{key}" cannot be read: {error}')
    return pairs


def _pause(args: argparse.Namespace) -> int:
    return _change(args, operations.pause_schedule, "is paused; its due times are skipped")


def _resume(args: argparse.Namespace) -> int:
    return _change(args, operations.resume_schedule, "is resumed")


def _remove(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = queries.schedules(connection, args.name)
        perform(connection, operations.remove_schedule(args.name))
    print(f'schedule "{args.name}" is deleted')
    if found and found[0]["declaring_peers"]:
        pause = advice(args, "schedule pause NAME")
        output.say(
            "The code of running peers declares it: the next peer that joins adds it again."
            f" `{pause}` stops it for good."
        )
    return 0


def _run(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        print(perform(connection, operations.run_schedule(args.name)))
    return 0


def _backfill(args: argparse.Namespace) -> int:
    request = operations.backfill_schedule(args.name, args.from_at, args.until_at)
    with connected(args) as connection:
        number = perform(connection, request)
    print(f'backfill {number} of schedule "{args.name}" has begun; the peers submit its tasks')
    return 0


def _change(args: argparse.Namespace, operation: Callable[[str], Request[None]], what: str) -> int:
    with connected(args) as connection:
        perform(connection, operation(args.name))
    print(f'schedule "{args.name}" {what}')
    return 0
