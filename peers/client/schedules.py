"""The record of a schedule that the client returns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from peers.types import TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule as it is in the database, with what became of its last due time. Times in UTC."""

    name: str
    kind: str
    cron: str | None
    every: timedelta | None
    anchor: datetime | None
    """The first due time of every."""
    timezone: str
    args: dict[str, Any]
    queue: str
    priority: int
    max_attempts: int | None
    timeout: timedelta | None
    metadata: dict[str, Any] | None
    misfire: str
    catch_up: timedelta
    overlap: str
    jitter: timedelta
    expect_within: timedelta | None
    paused_at: datetime | None
    next_due_at: datetime | None
    """None: never, or no peer has computed it yet."""
    last_due_at: datetime | None
    last_outcome: str | None
    """fired, skipped or failed."""
    last_reason: str | None
    last_task_id: int | None
    last_task_state: TaskState | None
    late_since: datetime | None
    """Since when no run has completed within `expect_within`; None: there is no alert."""
    declared: bool
    """Whether the code of a peer has declared it."""
    declaring_peers: int
    """How many live peers declare it."""
    changed_by_operator: bool
    """Whether it differs from what the code declared last."""
    created_by: str
    changed_at: datetime
    read_at: datetime
    """When it was read, by the database's clock."""

    def next_times(self, count: int = 5) -> list[datetime]:
        """Return its next due times, in its time zone, also while it is paused.

        Raises `BadSchedule` if this host does not know the time zone.
        """
        from zoneinfo import ZoneInfo  # these are slow to import

        from peers.schedules.calendar import Calendar

        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        calendar = Calendar(self.cron, self.every, self.timezone, self.anchor or epoch)
        zone = ZoneInfo(self.timezone)
        return [time.astimezone(zone) for time in calendar.next_times(self.read_at, count)]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ScheduleRecord:
        """Read what the statement `get_schedule` returns."""
        state = row["last_task_state"]
        return cls(
            name=row["name"],
            kind=row["kind"],
            cron=row["cron"],
            every=_span(row["every"]),
            anchor=_time(row["anchor"]),
            timezone=row["timezone"],
            args=row["args"],
            queue=row["queue"],
            priority=row["priority"],
            max_attempts=row["max_attempts"],
            timeout=_span(row["timeout"]),
            metadata=row["metadata"],
            misfire=row["misfire"],
            catch_up=timedelta(seconds=row["catch_up"]),
            overlap=row["overlap"],
            jitter=timedelta(seconds=row["jitter"]),
            expect_within=_span(row["expect_within"]),
            paused_at=_time(row["paused_at"]),
            next_due_at=_time(row["next_due_at"]),
            last_due_at=_time(row["last_due_at"]),
            last_outcome=row["last_outcome"],
            last_reason=row["last_reason"],
            last_task_id=row["last_task_id"],
            last_task_state=None if state is None else TaskState(state),
            late_since=_time(row["late_since"]),
            declared=row["declared"],
            declaring_peers=row["declaring_peers"],
            changed_by_operator=row["changed_by_operator"],
            created_by=row["created_by"],
            changed_at=_utc(row["changed_at"]),
            read_at=_utc(row["read_at"]),
        )


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _time(text: str | None) -> datetime | None:
    return None if text is None else _utc(text)


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
