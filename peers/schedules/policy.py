"""What becomes of due times: how late they may be noticed, and how far jitter moves them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from peers.schedules.calendar import Calendar

GRACE: Final = timedelta(minutes=1)
"""A due time that is noticed within this time is not a misfire: a peer died, or was busy."""
FIRES_MAX: Final = 100
SKIPS_MAX: Final = 20

_TICK: Final = timedelta(microseconds=1)
_NO_TIME: Final = timedelta(0)


class Misfire(StrEnum):
    """Which of the due times fire that were noticed too late."""

    SKIP = "skip"
    """None of them."""
    LATEST = "latest"
    """The latest one, unless another one is due by now."""
    ALL = "all"
    """All of them, oldest first."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What to do with the due times up to now."""

    fire: list[datetime]
    """Oldest first, at most FIRES_MAX."""
    skip: list[datetime]
    """Misfires to note, oldest first: the newest SKIPS_MAX. Older ones leave no trace."""
    next_due_at: datetime | None
    """The first due time that is neither fired nor skipped. The plan can be made again at once if
    FIRES_MAX was reached; then this time is past."""


def plan_runs(
    calendar: Calendar,
    due_at: datetime,
    now: datetime,
    *,
    misfire: Misfire,
    catch_up: timedelta,
    name: str = "",
    jitter: timedelta = _NO_TIME,
    grace: timedelta = GRACE,
) -> RunPlan:
    """Decide which of a schedule's due times fire, from `due_at` up to now.

    A due time is a misfire if it should have fired more than `grace` ago. Misfires more than
    `catch_up` ago never fire. The work is bounded, however long ago `due_at` is.
    """
    late = now - grace - jitter
    fire_from = min(now - catch_up, late) if misfire is Misfire.ALL else late
    due = calendar.between(max(fire_from, due_at) - _TICK, now, FIRES_MAX)
    fire = _until_first_later(due, now, name, jitter)
    skip = calendar.latest(due_at - _TICK, fire_from - _TICK, SKIPS_MAX)
    if misfire is Misfire.LATEST and not fire and skip and skip[-1] >= now - catch_up:
        fire = [skip.pop()]
    elif len(due) == FIRES_MAX or len(fire) < len(due):
        last = fire[-1] if fire else due[0] - _TICK
        return RunPlan(fire, skip, calendar.next_after(last))
    return RunPlan(fire, skip, calendar.next_after(now))


def _until_first_later(
    due: list[datetime], now: datetime, name: str, jitter: timedelta
) -> list[datetime]:
    """Return the due times up to the first one that jitter moves behind now."""
    for index, due_at in enumerate(due):
        if jittered(name, due_at, jitter) > now:
            return due[:index]
    return due


def jittered(name: str, due_at: datetime, jitter: timedelta) -> datetime:
    """Return when a schedule's due time fires: less than `jitter` later, and alike on each peer."""
    text = f"{due_at.astimezone(UTC).isoformat()} {name}"
    share = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
    return due_at + (share * (jitter // _TICK) >> 64) * _TICK
