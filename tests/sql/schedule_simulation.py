"""Years of schedules in minutes: simulated peers that die fire them, against the real SQL.

The clock of the database is moved to the next due time. Every look at the schedules has a fate: the
peer fires what is due, or it dies before, while or after it does, or it is stopped and fires much
later, or two fire at the same time. Now and then no peer is there for days.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import psycopg

from tests.support.schedules import add_schedule, due, planned, set_clock
from tests.support.vixie import cronsim_runs
from tests.support.world import rows, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.server import Connection

Fires = list[dict[str, Any]]

_FATES: Final = {
    "fires": 76, "dies before it fires": 8, "dies while it fires": 4, "dies after it fired": 4,
    "is stopped and fires later": 4, "fires while another one does": 4,
}  # fmt: skip
_PEERS: Final = 3
_STOPPED_MAX: Final = 5
_ABSENCES: Final = 0.01
"""The share of due times before which no peer is there for a while."""
_ABSENT_HOURS: Final = (0.1, 1, 5, 24, 100)


@dataclass(frozen=True)
class Simulated:
    """A schedule, and an oracle for its due times."""

    text: str
    zone: str = "UTC"
    misfire: str = "all"
    every: timedelta | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.every or self.text} {self.zone} {self.misfire}"

    def add(self, db: Connection, start: datetime) -> None:
        """Insert the schedule."""
        times: dict[str, object] = {"cron": self.text}
        if self.every is not None:
            times = {"every": self.every, "anchor": start}
        policies = {"misfire": self.misfire, "catch_up": timedelta(days=365)}
        add_schedule(db, self.name, timezone=self.zone, **times, **policies)

    def due_times(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield what the oracle says."""
        if self.every is not None:
            return (start + n * self.every for n in range(1, (end - start) // self.every + 1))
        return cronsim_runs(self.text, ZoneInfo(self.zone), start, end)


@dataclass
class Fleet:
    """Simulated peers. `now` is the time of the database's clock."""

    connect: Callable[[], Connection]
    now: datetime
    seed: int
    fates: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._admin = self.connect()
        self._peers = [self.connect() for _ in range(_PEERS)]
        self._stopped: list[Fires] = []

    def run(self, end: datetime) -> None:
        """Fire what is due up to `end`."""
        while self.now < end:
            set_clock(self._admin, self.now.isoformat())
            found = due(self._some_peer(), self._random.choice([1, 10, 50]))
            if found["schedules"]:
                self._meet_fate(planned(found)[0])
            else:
                self._wait(found["next"], end)
        self._finish(end)

    def _wait(self, due_at: float | None, end: datetime) -> None:
        if self._stopped and self._random.random() < 0.3:
            self._continue_one()
        later = end if due_at is None else datetime.fromtimestamp(due_at, UTC)
        self.now = max(self.now, later) + timedelta(seconds=self._random.uniform(0, 1))
        if self._random.random() < _ABSENCES:
            self.fates["nobody is there for hours or days"] += 1
            self.now += timedelta(hours=self._random.choice(_ABSENT_HOURS))

    def _meet_fate(self, fires: Fires) -> None:
        [fate] = self._random.choices(list(_FATES), list(_FATES.values()))
        self.fates[fate] += 1
        match fate:
            case "dies before it fires":
                self._notice_late()
            case "dies while it fires":
                self._fire_and_die(fires)
                self._notice_late()
            case "is stopped and fires later" if len(self._stopped) < _STOPPED_MAX:
                self._stopped.append(fires)
                self._notice_late()
            case "fires while another one does":
                self._fire_with_rival(fires)
            case _:
                fire(self._some_peer(), fires)

    def _notice_late(self) -> None:
        self.now += timedelta(seconds=self._random.uniform(0, 30))

    def _fire_and_die(self, fires: Fires) -> None:
        index = self._random.randrange(_PEERS)
        victim = self._peers[index]
        with suppress(psycopg.OperationalError), victim.transaction():
            fire(victim, fires)
            run(self._admin, "select pg_terminate_backend(%s)", victim.info.backend_pid)
            run(victim, "select pg_sleep(30)")
        assert victim.closed
        self._peers[index] = self.connect()

    def _fire_with_rival(self, fires: Fires) -> None:
        first, second = self._random.sample(self._peers, 2)
        with first.transaction():
            fire(first, fires)
            assert fire(second, fires) == []

    def _continue_one(self) -> None:
        fires = self._stopped.pop(self._random.randrange(len(self._stopped)))
        fire(self._some_peer(), fires)

    def _finish(self, end: datetime) -> None:
        self.now = end
        set_clock(self._admin, end.isoformat())
        while self._stopped:
            self._continue_one()
        while (found := due(self._admin))["schedules"]:
            fire(self._admin, planned(found)[0])

    def _some_peer(self) -> Connection:
        return self._random.choice(self._peers)


def fire(db: Connection, fires: Fires) -> list[dict[str, Any]]:
    """Call peers.fire_schedules, and return what became of the due times."""
    return rows(db, "select * from peers.fire_schedules(%s)", json.dumps(fires))


@dataclass
class Account:
    """What became of the due times of one schedule, beside the oracle."""

    schedule: str
    due: int
    fired: int
    skipped: int
    missing: list[datetime]
    """Due times that neither fired nor were skipped."""
    twice: list[datetime]
    """Due times with two tasks, or with a task although they were skipped."""
    extra: list[datetime]
    """What fired or was skipped without being due."""

    @property
    def is_clean(self) -> bool:
        """Whether each due time has exactly one fate."""
        return not self.missing and not self.twice and not self.extra


def account(db: Connection, schedule: Simulated, start: datetime, end: datetime) -> Account:
    """Compare the tasks and the ledger of a schedule with its oracle."""
    expected = list(schedule.due_times(start, end))
    tasks = Counter(
        each["due_at"]
        for each in rows(
            db,
            "select (metadata ->> 'due_at')::timestamptz as due_at from peers.task"
            " where metadata ->> 'schedule' = %s",
            schedule.name,
        )
    )
    skipped = _skipped(db, schedule, expected)
    return Account(
        schedule=schedule.name,
        due=len(expected),
        fired=tasks.total(),
        skipped=skipped.total(),
        missing=sorted(set(expected) - tasks.keys() - skipped.keys()),
        twice=sorted(due_at for due_at, count in (tasks + skipped).items() if count > 1),
        extra=sorted((tasks + skipped).keys() - set(expected)),
    )


def _skipped(db: Connection, schedule: Simulated, expected: list[datetime]) -> Counter[datetime]:
    skipped: Counter[datetime] = Counter()
    query = (
        "select due_at, coalesce(skipped_until, due_at) as until from peers.schedule_run"
        " where schedule = %s and outcome = 'skipped'"
    )
    for each in rows(db, query, schedule.name):
        covered = [due_at for due_at in expected if each["due_at"] <= due_at <= each["until"]]
        skipped.update(covered or [each["due_at"]])
    return skipped
