"""The operations on schedules. Each function checks its arguments and returns a request.

`peers.client.forms` makes the functions that users call of them, as in `peers.client.operations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.client import schedule_statements as statements
from peers.client.checks import id_of, moment_of, reason_of, switch_of, text_of
from peers.client.filters import filters_of
from peers.client.kinds import Kind, kind_of, options_for
from peers.client.statements import Request
from peers.client.submission import document
from peers.errors import BadSchedule
from peers.schedules import Schedule, moment_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from peers.client.schedules import ScheduleRecord
    from peers.schedules import Misfire, Overlap
    from peers.spans import Span

_OF_TASKS: Final = frozenset(
    {"kind", "args", "queue", "priority", "max_attempts", "timeout", "metadata"}
)

_TIME_EXAMPLE: Final = "For example, datetime(2026, 11, 20, tzinfo=timezone.utc)."


def add_schedule(
    name: str,
    kind: Kind,
    args: Mapping[str, object] | None = None,
    *,
    cron: str | None = None,
    every: Span | None = None,
    anchor: datetime | None = None,
    timezone: str = "UTC",
    queue: str | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    timeout: Span | None = None,
    metadata: Mapping[str, object] | None = None,
    misfire: Misfire = "latest",
    catch_up: Span = 86400,
    overlap: Overlap = "allow",
    jitter: Span = 0,
    expect_within: Span | None = None,
    replace: bool = False,
) -> Request[None]:
    """Add a schedule, which submits a task of the kind with these args at each due time.

    kind: its name, or a task, whose bound options apply. cron or every, anchor, timezone, misfire,
    catch_up, overlap, jitter, expect_within: see Schedule. queue, priority, max_attempts, timeout,
    metadata: of its tasks, see Options. replace: change the schedule of this name if there is one;
    a pause stays.

    Raises BadSchedule, ArgsInvalid, and BadTask for an option of its tasks.
    """
    text_of("name", name, hint="The name comes first, then the kind.", error=BadSchedule)
    given = {
        "queue": queue, "priority": priority, "max_attempts": max_attempts, "timeout": timeout,
        "metadata": metadata,
    }  # fmt: skip
    options = options_for(kind, {name: each for name, each in given.items() if each is not None})
    schedule = Schedule(
        name=name, cron=cron, every=every, anchor=anchor, timezone=timezone, misfire=misfire,
        catch_up=catch_up, overlap=overlap, jitter=jitter, expect_within=expect_within,
    )  # fmt: skip
    task = document(kind_of(kind), {} if args is None else args, options)
    task.pop("on_parent_failure", None)
    if refused := sorted(task.keys() - _OF_TASKS):
        raise BadSchedule(
            f"the tasks of a schedule cannot have {', '.join(refused)}",
            "Pass a task that does not have them bound.",
        )
    request = schedule.document(name=name, **task)
    return Request(
        statements.ADD_SCHEDULE,
        {**request, "replace": switch_of("replace", replace, error=BadSchedule)},
    )


def get_schedule(name: str) -> Request[ScheduleRecord]:
    """Return the schedule of this name. Raises ScheduleNotFound."""
    return Request(statements.GET_SCHEDULE, {"name": text_of("name", name)})


def find_schedules(
    kind: Kind | None = None,
    *,
    paused: bool | None = None,
    limit: int = 100,
    after: str | None = None,
) -> Request[list[ScheduleRecord]]:
    """Return the schedules that match all of these filters, by name.

    kind: its name, or a task. limit: 1 to 1000. after: only schedules with a later name, for the
    next page. Raises BadArgument.
    """
    filters = filters_of(limit, kind=kind, paused=paused, after=after)
    return Request(statements.FIND_SCHEDULES, filters)


def explain_schedule(name: str, at: datetime | None = None) -> Request[str]:
    """Return in words when a schedule is due next, and what became of its last due time.

    at: explains the last due time until then. Raises ScheduleNotFound.
    """
    return Request(statements.EXPLAIN_SCHEDULE, {"name": text_of("name", name), **_times(at=at)})


def pause_schedule(name: str, *, reason: str | None = None) -> Request[None]:
    """Pause a schedule: its due times are skipped. Running tasks continue.

    reason: is recorded in peers.action. Raises ScheduleNotFound.
    """
    return Request(statements.PAUSE_SCHEDULE, _named(name, reason))


def resume_schedule(name: str, *, reason: str | None = None) -> Request[None]:
    """Resume a paused schedule. It fires at its next due time.

    reason: is recorded in peers.action. Raises ScheduleNotFound.
    """
    return Request(statements.RESUME_SCHEDULE, _named(name, reason))


def remove_schedule(name: str, *, reason: str | None = None) -> Request[None]:
    """Delete a schedule. Its tasks stay, and what became of its due times stays recorded.

    If code declares it, the next peer that joins adds it again. reason: is recorded in
    peers.action. Raises ScheduleNotFound.
    """
    return Request(statements.REMOVE_SCHEDULE, _named(name, reason))


def run_schedule(name: str, *, reason: str | None = None) -> Request[int]:
    """Submit a task of a schedule now, also while it is paused, and return the task's id.

    reason: is recorded in peers.action. Raises ScheduleNotFound.
    """
    return Request(statements.RUN_SCHEDULE, _named(name, reason))


def backfill_schedule(
    name: str, from_at: datetime, until_at: datetime | None = None, *, reason: str | None = None
) -> Request[int]:
    """Run the due times from one time until another (now, if left out) that have not fired.

    A schedule with every has no due times before its anchor. The peers submit the tasks soon: one
    after the other, unless the schedule allows overlap. Returns the number of the backfill.
    reason: is recorded in peers.action. Raises ScheduleNotFound, BadSchedule.
    """
    text_of("name", name)
    moment_of("from_at", from_at, hint=_TIME_EXAMPLE, error=BadSchedule)
    request = {**_named(name, reason), **_times(from_at=from_at, until_at=until_at)}
    return Request(statements.BACKFILL_SCHEDULE, request)


def cancel_backfill(id: int, *, reason: str | None = None) -> Request[bool]:
    """End a backfill, and return whether it was in progress.

    id: what `backfill_schedule` has returned. The peers submit no more of its tasks. Those that are
    submitted stay; the page Schedules shows how to cancel them. False: the backfill never existed,
    was cancelled, or all its tasks are submitted. reason: is recorded in peers.action.
    """
    return Request(statements.CANCEL_BACKFILL, {"id": id_of(id, "backfill"), **reason_of(reason)})


def _named(name: str, reason: str | None) -> dict[str, str]:
    return {"name": text_of("name", name), **reason_of(reason)}


def _times(**moments: datetime | None) -> dict[str, str]:
    texts = {name: moment_text(name, moment) for name, moment in moments.items()}
    return {name: text for name, text in texts.items() if text is not None}
