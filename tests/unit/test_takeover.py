"""Takeover: what a witness has seen is declared, and the end of a lease is not missed."""

from __future__ import annotations

import selectors
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from peers.database import maintenance
from peers.database.jobs import Job
from peers.database.reconnecting import ReconnectingConnection
from peers.database.rows import LostPeer, Promoted, Reclaimed, Reclaims, Sibling, UnstartedTasks
from peers.events import fields_of, name_of
from peers.metrics.counts import Counts
from peers.peer import takeover as module
from peers.peer.maintenance import Chore, Maintenance, Retention
from peers.peer.state import PeerState
from peers.peer.takeover import Takeover

LEASE = timedelta(seconds=30)
NEVER = float("inf")


class Seen:
    """A witness that a test tells what it sees."""

    def __init__(self) -> None:
        self.watched: list[Sibling] = []
        self.dead: set[UUID] = set()
        self.looks = 0
        self.forgotten: list[UUID] = []
        self.look_at = NEVER
        self.not_started: list[UnstartedTasks] = []

    def watch(self, siblings: list[Sibling]) -> None:
        """Watch them."""
        self.watched = siblings

    def gone(self) -> list[UUID]:
        """Those that have ended."""
        self.looks += 1
        return sorted(self.dead)

    def unstarted(self, peer_ids: list[UUID]) -> list[UnstartedTasks]:
        """What they had not started."""
        assert set(peer_ids) <= self.dead
        return self.not_started

    def next_look(self) -> float:
        """When to look."""
        return self.look_at

    def forget(self, peer_ids: list[UUID]) -> None:
        """Forget them."""
        self.forgotten += peer_ids
        self.dead -= set(peer_ids)
        self.look_at = NEVER if not self.dead else self.look_at


class Database:
    """Answers each statement at once, and keeps what was asked."""

    is_idle = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5000.0
        self.calls: list[tuple[Any, ...]] = []
        self.replies: dict[str, Any] = {
            "promote": Promoted(0, 0.0, NEVER), "siblings": [], "declare_lost": [],
            "reclaim": Reclaims([], NEVER),
        }  # fmt: skip
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
        for verb, reader in (
            ("promote", "read_promoted"), ("siblings", "read_siblings"),
            ("declare_lost", "read_lost"), ("reclaim", "read_reclaimed"),
        ):  # fmt: skip
            monkeypatch.setattr(maintenance, verb, lambda *args, verb=verb: (verb, *args))
            monkeypatch.setattr(maintenance, reader, lambda reply: reply)

    def start(self, job: Job) -> None:
        """Do it."""
        [call] = cast("list[tuple[Any, ...]]", job.statements)
        self.calls.append(call)
        job.on_committed([self.replies[call[0]]])

    def retry_at(self, _: str) -> float:
        """At once."""
        return 0.0

    def succeeded(self, _: str) -> None:
        """Go on."""

    def verbs(self) -> list[str]:
        """What was asked, without what other chores ask."""
        return [verb for verb, *_ in self.calls if verb != "promote"]


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database in which there is nothing to do."""
    return Database(monkeypatch)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the witness sees."""
    made = Seen()
    monkeypatch.setattr(module, "Witness", lambda _: made)
    return made


@pytest.fixture
def takeover(seen: Seen) -> Takeover:
    """That of a peer that has just joined."""
    assert seen.look_at == NEVER
    made = Takeover(selectors.DefaultSelector(), LEASE, Counts())
    made.look_now()
    return made


def turn(takeover: Takeover, database: Database, seconds: float = 0.0) -> Maintenance:
    """Let time pass, and do all that is due."""
    maintenance = Maintenance(
        PeerState(uuid4()), cast("ReconnectingConnection", database), LEASE, Retention(),
        lambda: True, takeover.chores,
    )  # fmt: skip
    end = database.now + seconds
    while (due_at := maintenance.due_at()) <= end:
        database.now = max(database.now, due_at)
        maintenance.start_due()
    database.now = end
    return maintenance


def test_a_peer_that_joins_looks_at_once(
    database: Database, seen: Seen, takeover: Takeover
) -> None:
    """It lists its siblings, declares lost who has ended, and takes their tasks: in this order."""
    dead = Sibling(uuid4(), 7, 100, "lock")
    database.replies["siblings"] = [dead]
    database.replies["declare_lost"] = [LostPeer(dead.peer_id, "vega", 0)]

    def watch(siblings: list[Sibling]) -> None:
        seen.watched, seen.dead, seen.look_at = siblings, {dead.peer_id}, database.now

    seen.watch = watch  # type: ignore[method-assign]
    turn(takeover, database)
    assert database.verbs() == ["siblings", "declare_lost", "reclaim"]
    [declared] = [call[2] for call in database.calls if call[0] == "declare_lost"]
    assert declared == [dead.peer_id]
    assert seen.forgotten == [dead.peer_id]


def test_a_peer_whose_row_is_locked_is_declared_again(
    database: Database, seen: Seen, takeover: Takeover
) -> None:
    """A claim of it is under way in the server: the witness and the database are asked again."""
    turn(takeover, database)
    dead = uuid4()
    seen.dead, seen.look_at = {dead}, database.now + 1.0
    database.calls.clear()
    turn(takeover, database, 0.9)
    assert "declare_lost" not in database.verbs()
    maintenance = turn(takeover, database, 0.0)
    database.now += 0.1
    seen.look_at = database.now
    maintenance.start_due()
    seen.look_at = database.now + 0.5
    assert database.verbs().count("declare_lost") == 1
    assert seen.forgotten == []
    database.replies["declare_lost"] = [LostPeer(dead, "vega", 0)]
    database.now += 0.5
    maintenance.start_due()
    assert database.verbs().count("declare_lost") == 2
    assert seen.forgotten == [dead]


def test_what_a_lost_peer_had_not_started_is_released(
    database: Database, seen: Seen, takeover: Takeover, caplog: pytest.LogCaptureFixture
) -> None:
    """In the same call, and up to a number of tasks. If the database refuses that, it is asked to
    release fewer: a peer must be declared lost in any case.
    """
    turn(takeover, database)
    dead = uuid4()
    seen.dead, seen.look_at = {dead}, database.now
    seen.not_started = [UnstartedTasks(b"a" * 16, 3, 6000), UnstartedTasks(b"b" * 16, 0, 6000)]
    [chore] = [each for each in takeover.chores if each.name == "declare_lost"]
    assert maintenance_call(chore)[3] == [
        UnstartedTasks(b"a" * 16, 3, 6000), UnstartedTasks(b"b" * 16, 0, 4000),
    ]  # fmt: skip
    chore.failed()
    assert maintenance_call(chore)[3] == [UnstartedTasks(b"a" * 16, 3, 2500)]
    database.replies["declare_lost"] = [LostPeer(dead, "vega", 2500)]
    turn(takeover, database)
    assert seen.forgotten == [dead]
    [told] = [fields_of(r) for r in caplog.records if name_of(r) == "unstarted_tasks_released"]
    assert told == {"released": 2500, "lost_peer_id": dead, "lost_host": "vega"}


def maintenance_call(chore: Chore) -> tuple[Any, ...]:
    """What a chore would ask now."""
    assert chore.due_at() == 0.0
    return cast("tuple[Any, ...]", chore.write(uuid4(), chore.size))


def test_an_end_that_is_not_sure_asks_nothing(
    database: Database, seen: Seen, takeover: Takeover
) -> None:
    """The process has ended, and something holds its lock: no statement is sent for that."""
    turn(takeover, database)
    database.calls.clear()
    seen.look_at = database.now - 1

    def gone() -> list[UUID]:
        seen.look_at = database.now + 1
        return []

    seen.gone = gone  # type: ignore[method-assign]
    turn(takeover, database, 5.0)
    assert "declare_lost" not in database.verbs()


@pytest.mark.parametrize(
    ("next_in", "expected"), [(4.0, 4.1), (NEVER, 10.1), (25.0, 10.1), (0.0, 0.3)]
)
def test_the_end_of_a_lease_is_not_missed(
    database: Database, takeover: Takeover, next_in: float, expected: float
) -> None:
    """The next reclaim comes right after it, and after a third of a lease at the latest."""
    database.replies["reclaim"] = Reclaims([], next_in)
    turn(takeover, database)
    began, reclaim = database.now, takeover.chores[2]
    assert reclaim.due_at() - began == pytest.approx(expected)


def test_a_full_step_is_followed_by_another(
    database: Database, takeover: Takeover, caplog: pytest.LogCaptureFixture
) -> None:
    """Until nothing is left; each task is logged."""
    tasks = [
        Reclaimed(number, "noop", 1, uuid4(), uuid4(), "vega", "default", "retried")
        for number in range(1000)
    ]
    replies = [Reclaims(tasks, 1.0), Reclaims(tasks[:3], NEVER)]
    original = database.start

    def start(job: Job) -> None:
        [call] = cast("list[tuple[Any, ...]]", job.statements)
        if call[0] == "reclaim":
            database.replies["reclaim"] = replies.pop(0)
        original(job)

    database.start = start  # type: ignore[method-assign]
    turn(takeover, database, 1.0)
    assert database.verbs().count("reclaim") == 2
    told = [fields_of(r) for r in caplog.records if name_of(r) == "task_reclaimed"]
    assert len(told) == 1003
    assert told[0]["lost_host"] == "vega"


def test_a_join_is_looked_at_soon(database: Database, takeover: Takeover) -> None:
    """The new peer is watched, and its lease may be short."""
    turn(takeover, database)
    database.calls.clear()
    turn(takeover, database, 5.0)
    assert database.verbs() == []
    takeover.look_now()
    turn(takeover, database)
    assert sorted(database.verbs()) == ["reclaim", "siblings"]
