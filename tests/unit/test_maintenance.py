"""Maintenance: short steps between the peer's own transactions, and no more of them than needed."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest

from peers.database import maintenance
from peers.database.jobs import Job
from peers.database.pipeline import StatementRefused
from peers.database.reconnecting import ReconnectingConnection
from peers.database.rows import Promoted, Pruned, Reclaims, Unrunnable
from peers.errors import PeerLost
from peers.events import fields_of, name_of
from peers.metrics.counts import Counts
from peers.peer import promotion as promotion_module
from peers.peer.maintenance import Maintenance, Retention
from peers.peer.promotion import SCHEDULED, Promotion
from peers.peer.state import PeerState
from peers.peer.takeover import Takeover

LEASE = timedelta(seconds=30)
EPOCH = 1_700_000_000.0
NEVER = float("inf")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 5000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of this peer; there is no jitter."""
    made = Clock()
    monkeypatch.setattr("time.monotonic", made.monotonic)
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
    monkeypatch.setattr(promotion_module, "_JITTER", 0.0)
    return made


class Database:
    """A connection on which each step takes a while, and its statements."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = clock
        self.is_idle = True
        self.job: Job | None = None
        self.calls: list[tuple[str, int]] = []
        self.seconds = 0.01
        self.replies: dict[str, Any] = {
            "promote": Promoted(0, EPOCH, NEVER), "reclaim": Reclaims([], NEVER),
            "siblings": [], "unrunnable": [], "place_limited": 0, "delete_peeks": 0,
            "apply_retention": Pruned(0, 0, True), "prune_schedule_runs": 0,
        }  # fmt: skip
        self.errors: dict[str, Exception] = {}
        self.retries: dict[str, float] = {}
        self.renewed: list[Exception] = []
        for verb, reader in (
            ("promote", "read_promoted"), ("reclaim", "read_reclaimed"),
            ("siblings", "read_siblings"),
            ("unrunnable", "read_unrunnable"), ("apply_retention", "read_pruned"),
            ("place_limited", "read_placed"),
            ("prune_schedule_runs", "read_count"),
        ):  # fmt: skip
            monkeypatch.setattr(maintenance, verb, self._writer(verb))
            monkeypatch.setattr(maintenance, reader, lambda reply: reply)
        monkeypatch.setattr(maintenance, "delete_peeks", self._writer("delete_peeks"))

    @staticmethod
    def _writer(verb: str) -> Callable[..., tuple[str, int]]:
        return lambda *arguments: (verb, arguments[-1] if arguments else 0)

    def start(self, job: Job) -> None:
        """Take a step, which ends at once on a clock of its own."""
        [(verb, size)] = cast("list[tuple[str, int]]", job.statements)
        assert job.bounds is not None
        self.calls.append((verb, size))
        self.clock.now += self.seconds
        if verb in self.errors:
            job.on_refused(StatementRefused(self.errors[verb], 0))
        else:
            job.on_committed([self.replies[verb]])

    def retry_at(self, job: str) -> float:
        """When a job may be tried again."""
        return self.retries.get(job, 0.0)

    def succeeded(self, job: str) -> None:
        """Forget a failure."""
        self.retries.pop(job, None)

    def delay(self, job: str) -> float:
        """Put a job off."""
        self.retries[job] = self.clock.now + 5.0
        return 5.0

    def renew_session(self, error: Exception) -> None:
        """Note it."""
        self.renewed.append(error)

    def count(self, verb: str) -> int:
        """How often a verb was called."""
        return [name for name, _ in self.calls].count(verb)


@pytest.fixture
def database(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database in which there is nothing to do."""
    return Database(clock, monkeypatch)


def maintenance_of(database: Database, *, is_listening: bool = True) -> Maintenance:
    """The maintenance of a peer that has joined."""
    return Maintenance(
        PeerState(uuid4()), cast("ReconnectingConnection", database), LEASE,
        Retention(timedelta(days=1)), lambda: is_listening,
        Takeover(selectors.DefaultSelector(), LEASE, Counts()).chores,
    )  # fmt: skip


def run(maintenance: Maintenance, database: Database, seconds: float) -> None:
    """Let the main loop turn for so long; it sleeps until something is due."""
    end = database.clock.now + seconds
    while database.clock.now < end:
        maintenance.start_due()
        database.clock.now = min(end, max(database.clock.now, maintenance.due_at()))


# ------------------------------------------------------------------------------------ how often


def test_an_idle_peer_does_little(database: Database) -> None:
    """In ten minutes: less than one statement in three seconds, and each chore in its turn."""
    run(maintenance_of(database), database, 601)
    assert 9 <= database.count("siblings") <= 10
    assert 55 <= database.count("promote") <= 62
    assert 55 <= database.count("reclaim") <= 62
    assert 9 <= database.count("unrunnable") <= 10
    assert database.count("apply_retention") == 1


def test_a_peer_that_hears_nothing_looks_every_second(database: Database) -> None:
    """Nobody can notify it of a task that is due soon."""
    run(maintenance_of(database, is_listening=False), database, 60)
    assert 55 <= database.count("promote") <= 61


def test_a_scheduled_task_is_promoted_when_it_is_due(database: Database) -> None:
    """Whenever that is, whatever the database's clock says, and not by asking all the time."""
    maintenance = maintenance_of(database)
    maintenance.start_due()
    began = database.clock.now
    maintenance.promotion.notified(f"{SCHEDULED}{EPOCH + 7.5}")
    assert maintenance.due_at() == pytest.approx(began + 7.5)
    database.clock.now = began + 7.5
    database.replies["promote"] = Promoted(1, EPOCH + 7.5, EPOCH + 10)
    maintenance.start_due()
    due_at = maintenance.promotion.due_at(is_listening=True)
    assert due_at == pytest.approx(database.clock.now + 2.5)


def test_a_stream_of_scheduled_tasks_is_promoted_within_a_second(database: Database) -> None:
    """A task is due every millisecond: the peer looks once in a while, but often enough."""
    maintenance = maintenance_of(database)
    began = database.clock.now
    database.replies["promote"] = Promoted(1, EPOCH, EPOCH + 0.001)
    for _ in range(40):
        maintenance.start_due()
        step = maintenance.due_at() - database.clock.now
        assert step < 1.0
        database.clock.now += max(step, 0.01)
    assert database.count("promote") <= (database.clock.now - began) / 0.7 + 2


def test_more_than_one_step_of_due_tasks(database: Database) -> None:
    """The next step follows, and the peer's own transactions come between."""
    maintenance = maintenance_of(database)
    database.replies["promote"] = Promoted(1000, EPOCH, EPOCH)
    maintenance.start_due()
    wait = maintenance.due_at() - database.clock.now
    assert 0 < wait < 0.1


def test_a_payload_that_no_peer_understands_is_harmless() -> None:
    """Any program can notify."""
    for payload in (SCHEDULED, f"{SCHEDULED}soon", f"{SCHEDULED}1;2"):
        promotion = Promotion()
        before = promotion.due_at(is_listening=True)
        promotion.notified(payload)
        assert promotion.due_at(is_listening=True) == before


# ---------------------------------------------------------------------------------- steps


def test_a_step_that_takes_long_gets_smaller(database: Database) -> None:
    """The peer's own work waits for each step; while more is to do, half of the time is its own."""
    maintenance = maintenance_of(database)
    database.clock.now += 700
    database.replies["apply_retention"] = Pruned(10_000, 10, False)
    database.seconds = 0.5
    run(maintenance, database, 20)
    sizes = [size for verb, size in database.calls if verb == "apply_retention"]
    assert sizes[0] == 10_000
    assert sizes[-1] <= 10
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) * database.seconds <= 0.6 * 20
    database.seconds = 0.001
    run(maintenance, database, 5)
    assert database.calls[-1][1] > 100


def test_a_prune_is_told_once(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """When it is finished, with the sum of its steps."""
    maintenance = maintenance_of(database)
    database.clock.now += 700
    database.replies["apply_retention"] = Pruned(10_000, 10, False)
    run(maintenance, database, 1)
    steps = database.count("apply_retention")
    database.replies["apply_retention"] = Pruned(10, 5, True)
    run(maintenance, database, 10)
    [told] = [fields_of(r) for r in caplog.records if name_of(r) == "tasks_pruned"]
    assert told["deleted"] == 10 * steps + 5


def test_an_unrunnable_kind_is_told_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Until it was runnable meanwhile."""
    kind = Unrunnable("default", "a", 7, datetime.now(UTC))
    maintenance = maintenance_of(database)
    for rows in ([kind], [kind], [], [kind]):
        database.replies["unrunnable"] = rows
        run(maintenance, database, 62)
    assert len([r for r in caplog.records if name_of(r) == "tasks_unrunnable"]) == 2


# -------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    "error", [psycopg.errors.QueryCanceled("too long"), psycopg.errors.RaiseException("no")]
)
def test_a_chore_that_is_refused_is_put_off_alone(
    database: Database, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Its next step is smaller; the others go on, and the session stays."""
    maintenance = maintenance_of(database)
    database.errors["promote"] = error
    run(maintenance, database, 60)
    assert database.count("reclaim") >= 5
    assert 1 < database.count("promote") <= 13
    assert len([r for r in caplog.records if name_of(r) == "maintenance_failed"]) > 1
    assert [size for verb, size in database.calls if verb == "promote"][1] < 1000
    assert database.renewed == []
    del database.errors["promote"]
    run(maintenance, database, 10)
    assert "promote" not in database.retries


def test_a_session_that_is_the_cause_is_renewed(database: Database) -> None:
    """A migration has outdated a prepared statement, or a pooler has taken it away."""
    database.errors["promote"] = psycopg.errors.FeatureNotSupported("cached plan")
    maintenance_of(database).start_due()
    assert len(database.renewed) == 1


def test_a_lost_peer_is_told(database: Database) -> None:
    """The main loop handles it."""
    database.errors["promote"] = PeerLost("gone")
    with pytest.raises(PeerLost):
        maintenance_of(database).start_due()


def test_nothing_is_done_while_the_connection_is_busy(database: Database) -> None:
    """Or before the peer has joined."""
    maintenance = maintenance_of(database)
    database.is_idle = False
    maintenance.start_due()
    database.is_idle = True
    maintenance._state.peer_id = None
    maintenance.start_due()
    assert database.calls == []
