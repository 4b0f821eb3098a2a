"""`peers schedule`: list, add, explain, pause, resume, run, backfill or remove schedules."""

from __future__ import annotations

import argparse
import shlex
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final

from peers.cli import hints, output, queries
from peers.cli.argument_types import TIME_FORM, instant, positive
from peers.cli.database import connected, perform
from peers.cli.options import add_reason
from peers.cli.parser import add_command, add_group, advice
from peers.cli.schedule_add import NEXT_SHOWN, TIME, add_name, next_times, register_add
from peers.client import schedule_operations as operations
from peers.errors import BadSchedule, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from peers.cli.parser import Command, Commands
    from peers.client.statements import Request


_CANCEL_TASKS: Final = (
    "SELECT peers.cancel(t.id) FROM peers.task t JOIN peers.schedule_run r ON r.task_id = t.id"
    " WHERE r.schedule = 'NAME' AND r.cause = 'backfill'"
    " AND t.state NOT IN ('completed', 'cancelled', 'dead');"
)


def register(commands: Commands) -> None:
    """Declare `schedule` and its commands."""
    group = add_group(
        commands, "schedule", "schedules: tasks that run at given times",
        example="peers schedule list",
    )  # fmt: skip
    add_command(
        group, "list", _list, "list schedules, and when they are due", reads=True,
        example="peers schedule list --json",
    )  # fmt: skip
    register_add(group)
    changes: dict[str, tuple[Command, str]] = {
        "pause": (_pause, "pause a schedule: its due times are skipped (running tasks go on)"),
        "resume": (_resume, "resume a paused schedule"),
        "remove": (_remove, "delete a schedule (its tasks go on)"),
        "run": (_run, "submit a task of a schedule now and print its id"),
    }
    for verb, (command, summary) in changes.items():
        changing = add_command(
            group, verb, command, summary, example=f"peers schedule {verb} nightly"
        )
        add_name(changing)
        add_reason(changing)
    _register_questions(group)
    _register_backfills(group)


def _register_questions(group: Commands) -> None:
    explain = add_command(
        group,
        "explain",
        _explain,
        "say what became of a schedule's last due time",
        reads=True,
        example="peers schedule explain nightly --at 2026-11-23T04:00",
    )
    add_name(explain)
    explain.add_argument(
        "--at",
        type=instant,
        metavar="TIME",
        help=f"explain the last due time until then ({TIME_FORM})",
    )
    coming = add_command(
        group,
        "next",
        _show_next,
        "show the next due times in the schedule's time zone",
        reads=True,
        example="peers schedule next nightly --count 10",
    )
    add_name(coming)
    coming.add_argument(
        "--count", type=positive, default=NEXT_SHOWN, metavar="N",
        help=f"how many (default: {NEXT_SHOWN})",
    )  # fmt: skip


def _register_backfills(group: Commands) -> None:
    backfill = add_command(
        group,
        "backfill",
        _backfill,
        "run due times of the past that have not fired",
        example="peers schedule backfill nightly --from 2026-11-01 --until 2026-11-08",
    )
    add_name(backfill)
    backfill.add_argument(
        "--from", type=instant, required=True, dest="from_at", metavar="TIME",
        help=f"the first due time ({TIME_FORM})",
    )  # fmt: skip
    backfill.add_argument(
        "--until", type=instant, dest="until_at", metavar="TIME",
        help=f"the last due time ({TIME_FORM}; default: now)",
    )  # fmt: skip
    add_reason(backfill)
    cancel = add_command(
        group,
        "cancel-backfill",
        _cancel_backfill,
        "end a backfill (its submitted tasks stay)",
        example="peers schedule cancel-backfill 3",
    )
    cancel.add_argument(
        "id", type=positive, metavar="NUMBER", help="number that `peers schedule backfill` printed"
    )
    add_reason(cancel)


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
            shown = shlex.quote(output.one_line(each["name"]))
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
    for hint in hints.of_schedule(args, sentence):
        output.say(f"hint: {hint}")
    return 0


def _show_next(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        times = next_times(connection, args.name, args.count)
    if args.json:
        output.document({"name": args.name, "next": [time.isoformat() for time in times]})
        return 0
    for time in times:
        print(f"{time:{TIME}}")
    return 0


# ------------------------------------------------------------------------------------- changing


def _pause(args: argparse.Namespace) -> int:
    return _change(args, operations.pause_schedule, "is paused; its due times are skipped")


def _resume(args: argparse.Namespace) -> int:
    return _change(args, operations.resume_schedule, "is resumed")


def _remove(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        found = queries.schedules(connection, args.name)
        perform(connection, operations.remove_schedule(args.name, reason=args.reason))
    output.tell(f'schedule "{args.name}" is deleted')
    if found and found[0]["declaring_peers"]:
        output.say(
            "The code of running peers declares it: the next peer that joins adds it again."
            f" `{advice(args, f'schedule pause {shlex.quote(args.name)}')}` then stops it."
        )
    return 0


def _run(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        print(perform(connection, operations.run_schedule(args.name, reason=args.reason)))
    return 0


def _backfill(args: argparse.Namespace) -> int:
    request = operations.backfill_schedule(
        args.name, args.from_at, args.until_at, reason=args.reason
    )
    with connected(args) as connection:
        try:
            number = perform(connection, request)
        except BadSchedule as refused:  # it names the parameters of SQL and Python
            message = refused.message.replace("from_at", "--from").replace("until_at", "--until")
            raise BadSchedule(message, refused.hint) from refused
        anchor = perform(connection, operations.get_schedule(args.name)).anchor
    output.tell(
        f'backfill {number} of schedule "{args.name}" has begun; the peers submit its tasks'
    )
    if anchor is not None and args.from_at < anchor:
        output.say(f"It begins at the anchor of the schedule, {anchor.astimezone(UTC):{TIME}}.")
    output.say(
        f"hint: `{advice(args, f'schedule cancel-backfill {number}')}` ends it; tasks that are"
        " submitted stay."
    )
    return 0


def _cancel_backfill(args: argparse.Namespace) -> int:
    with connected(args) as connection:
        was_in_progress = perform(
            connection, operations.cancel_backfill(args.id, reason=args.reason)
        )
    if not was_in_progress:
        raise NotFound(
            f"there is no backfill {args.id}",
            "It never existed, was cancelled, or all its tasks are submitted. In psql, this cancels"
            f" the tasks of the backfills of a schedule: {_CANCEL_TASKS}",
        )
    print(f"backfill {args.id} is cancelled; the tasks that are submitted stay")
    output.say(f"hint: in psql, this cancels them: {_CANCEL_TASKS}")
    return 0


def _change(args: argparse.Namespace, operation: Callable[..., Request[None]], what: str) -> int:
    with connected(args) as connection:
        perform(connection, operation(args.name, reason=args.reason))
    output.tell(f'schedule "{args.name}" {what}')
    return 0
