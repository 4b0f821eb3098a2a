"""The records of limits that the client returns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

FOREVER = datetime.max.replace(tzinfo=UTC)
"""The time until which a limit is shut that only an operator opens."""


@dataclass(frozen=True, slots=True)
class LimitKey:
    """What runs and waits under one key of a limit."""

    key: str | None
    """The value at the path; None: the tasks without one, or a limit without a key."""
    running: int
    waiting: int
    weight: float | None
    """How much the running tasks weigh; None: the limit has no weight."""
    started: int | None
    """How many tasks started in the last period; None: the limit has no rate."""
    locked_by: int | None = None
    """The pid of a session that holds the key's advisory lock: no task of the key starts."""
    locked_by_application: str | None = None
    """Its application_name."""


@dataclass(frozen=True, slots=True)
class LimitRecord:
    """A limit as it is in the database, with what it does now. Times are in UTC."""

    name: str
    kind: str | None
    queue: str | None
    key: str | None
    max_running: int | None
    starts: int | None
    per: timedelta | None
    weight: str | None
    fair: bool
    learns: bool
    most_now: int | None
    """What `max_running` is for now: less for a while after a cooldown, if the limit learns."""
    running: int
    waiting: int
    shut_until: datetime | None
    """No task starts before; the year 9999: until it is opened. None: it is open."""
    shut_because: str | None
    declared: bool
    """Whether the code of a peer has declared it."""
    declaring_peers: int
    """How many live peers declare it."""
    changed_by_operator: bool
    """Whether it differs from what the code declared last."""
    changed_at: datetime
    keys: tuple[LimitKey, ...] = ()
    """The keys with the most waiting tasks; only `get_limit` returns them."""

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LimitRecord:
        """Read what the statement `get_limit` returns."""
        return cls(
            name=row["name"],
            kind=row["kind"],
            queue=row["queue"],
            key=row["key"],
            max_running=row["max_running"],
            starts=row["starts"],
            per=None if row["per"] is None else timedelta(seconds=row["per"]),
            weight=row["weight"],
            fair=row["fair"],
            learns=row["learns"],
            most_now=row["most_now"],
            running=row["running"],
            waiting=row["waiting"],
            shut_until=_time(row["shut_until"]),
            shut_because=row["shut_because"],
            declared=row["declared_in_code"],
            declaring_peers=row["declaring_peers"],
            changed_by_operator=row["changed_by_operator"],
            changed_at=datetime.fromisoformat(row["changed_at"]).astimezone(UTC),
            keys=tuple(LimitKey(**each) for each in row["keys"] or ()),
        )


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    return FOREVER if text == "infinity" else datetime.fromisoformat(text).astimezone(UTC)
