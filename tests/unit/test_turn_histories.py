"""The peer's transactions through random histories of losses and refusals.

Every task that the database has leased is run and recorded once, whatever was lost on the way.
Variants without one of the safeguards are caught.
"""

from __future__ import annotations

import random
import selectors
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, cast
from unittest.mock import Mock
from uuid import UUID, uuid4

import psycopg
import pytest

from peers.database import statements
from peers.database.binary import pack_ids, read_ids
from peers.database.jobs import Job
from peers.database.pipeline import StatementRefused
from peers.database.rows import ClaimReply, Unrecorded
from peers.peer import leases as leases_module
from peers.peer.claims import Claims
from peers.peer.leases import Leases
from peers.peer.outbox import Outbox
from peers.peer.outcomes import Outcomes
from peers.peer.recorder import Recorder
from peers.peer.state import PeerState
from peers.pool.local_queue import LocalQueue
from peers.settings import Settings
from tests.support.claims import ONE_ATTEMPT

HISTORIES = 200
STEPS_MAX = 30
MANY = 60
Operation = Callable[[], Any]


class Database:
    """Tasks, the leases of one peer, and what was recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ready: list[int] = []
        self.leases: dict[bytes, set[int]] = {}
        self.recorded: dict[int, bytes] = {}
        """The token under which each task was completed."""
        self.stale: list[int] = []
        self._ids = count(1)
        monkeypatch.setattr(statements, "claim", self._claim)
        monkeypatch.setattr(statements, "complete", self._complete)
        monkeypatch.setattr(statements, "release", self._release)
        monkeypatch.setattr(statements, "reconcile", self._reconcile)
        for name in ("read_claim", "read_unrecorded", "read_count"):
            monkeypatch.setattr(statements, name, lambda result: result)

    def submit(self) -> None:
        """Add a task that is ready."""
        self.ready.append(next(self._ids))

    def _claim(self, _peer: UUID, _queue: str, most: int, *_: object, durable: bool) -> Operation:
        del durable

        def claim() -> ClaimReply:
            ids, self.ready = self.ready[:most], self.ready[most:]
            token = uuid4().bytes if ids else b""
            if ids:
                self.leases[token] = set(ids)
            args = b"[%b]" % b",".join([b"{}"] * len(ids))
            return ClaimReply(
                token, len(ids), pack_ids(ids), ONE_ATTEMPT, ("k",), (100,), None, args, None,
                more=False,
            )  # fmt: skip

        return claim

    def _complete(
        self, _peer: UUID, tokens: bytes, task_ids: bytes, _results: bytes, *, patient: bool
    ) -> Operation:
        del patient
        ids = read_ids(task_ids)
        raw = [tokens[at : at + 16] for at in range(24, len(tokens), 20)]
        pairs = list(zip(raw * len(ids) if len(raw) == 1 else raw, ids, strict=False))

        def complete() -> list[Unrecorded]:
            return [row for token, id_ in pairs for row in self._complete_one(token, id_)]

        return complete

    def _complete_one(self, token: bytes, task_id: int) -> Iterator[Unrecorded]:
        if task_id in self.leases.get(token, ()):
            self._end(token, task_id)
            self.recorded[task_id] = token
        elif self.recorded.get(task_id) == token:
            yield Unrecorded(task_id, UUID(bytes=token), "already")
        else:
            self.stale.append(task_id)
            yield Unrecorded(task_id, UUID(bytes=token), "stale")

    def _release(
        self, _peer: UUID, ids: Sequence[int], tokens: Sequence[bytes], *_: object, patient: bool
    ) -> Operation:
        del patient

        def release() -> list[Unrecorded]:
            for token, task_id in zip(tokens, ids, strict=True):
                if task_id in self.leases.get(token, ()):
                    self._end(token, task_id)
                    self.ready.append(task_id)
            return []

        return release

    def _end(self, token: bytes, task_id: int) -> None:
        self.leases[token].remove(task_id)
        if not self.leases[token]:
            del self.leases[token]

    def _reconcile(self, _peer: UUID, tokens: Sequence[bytes]) -> Operation:
        def reconcile() -> int:
            unknown = [token for token in self.leases if token not in tokens]
            released = [task_id for token in unknown for task_id in self.leases.pop(token)]
            self.ready += released
            return len(released)

        return reconcile


class Connection:
    """A connection whose jobs end as the test says. Nothing that was put off has to wait."""

    encoding = "UTF8"
    is_up = True

    def __init__(self) -> None:
        self.job: Job | None = None

    @property
    def is_idle(self) -> bool:
        """Return whether a job can be started."""
        return self.job is None

    def start(self, job: Job) -> None:
        """Keep a job until it ends."""
        assert self.job is None
        self.job = job

    def take(self) -> Job:
        """Return the job, which ends now."""
        job, self.job = self.job, None
        assert job is not None
        return job

    def transact(self, work: Callable[[Any], None]) -> None:
        """Execute statements alone."""
        assert self.job is None
        work(Mock(run=lambda operation: operation()))

    def attempt(self, _job: str, work: Callable[[], None]) -> None:
        """Do a job now."""
        work()

    def retry_at(self, _job: str) -> float:
        """Nothing waits."""
        return 0.0

    def is_put_off(self, _job: str) -> bool:
        """Nothing waits."""
        return False

    def put_off(self, *_: object) -> None:
        """Nothing waits."""

    succeeded = put_off


class Peer:
    """The leases of a peer, whose workers complete what they are assigned when the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
        pool = Mock()
        pool.return_value.kinds = {}
        monkeypatch.setattr(leases_module, "WorkerPool", pool)
        self.luck = random.Random(seed)
        self.database = Database(monkeypatch)
        self.connection = Connection()
        self.selector = selectors.DefaultSelector()
        self.leases = Leases(
            PeerState(uuid4()), Settings(app="app", queues={"default": 3}), "app", self.selector,
            cast("Any", self.connection), Mock(), lambda: True,
        )  # fmt: skip
        [self.outcomes] = [a for a in pool.call_args.args if isinstance(a, Outcomes)]
        self.runs: list[tuple[bytes, int]] = []
        self.is_fenced = False
        self.results: list[Any] | None = None
        """What the job in progress has done, if its COMMIT is over and its replies are not here."""

    def work(self) -> None:
        """Run some of the tasks that wait."""
        [local_queue] = self.leases._queues.values()
        key = local_queue.next_key(set())
        if key is None or self.is_fenced:
            return
        for run in local_queue.take(key, 1e9, self.luck.randint(1, 3)):
            self.runs += [(run.claim.token, id_) for id_ in read_ids(run.task_ids())]
            self.outcomes.completed_run(run, b"[%b]" % b",".join([b"1"] * run.count))

    def commit(self) -> None:
        """Commit the job in progress. Its replies come later."""
        assert self.connection.job is not None
        before = len(self.database.ready)
        operations = cast("list[Operation]", self.connection.job.statements)
        self.results = [operation() for operation in operations]
        if len(self.database.ready) > before:
            self.leases.poll_now()

    def succeed(self) -> None:
        """Pass the replies on."""
        if self.results is None:
            self.commit()
        assert self.results is not None
        results, self.results = self.results, None
        self.connection.take().on_committed(results)

    def refuse(self) -> None:
        """Refuse a statement, or the COMMIT."""
        job = self.connection.take()
        index = self.luck.choice([None, *range(len(job.statements))])
        job.on_refused(StatementRefused(psycopg.errors.RaiseException("no"), index))

    def lose(self) -> None:
        """Lose the connection, and make a new one."""
        self.results = None
        self.connection.take().on_lost()
        self.leases.reconnected()

    def submit(self) -> None:
        """Submit a task, of which the peer is notified."""
        self.database.submit()
        self.leases.poll_now()

    def fence(self) -> None:
        """Kill the workers; or go on, because the lease has held."""
        if self.is_fenced:
            self.leases.stop_all()
        self.is_fenced = not self.is_fenced

    def live(self) -> None:
        """Live through a history, and then through a time without disasters."""
        for _ in range(self.luck.randint(1, STEPS_MAX)):
            steps = [self.submit, self.work, self._turn, self.fence]
            step = self.luck.choices(steps, (4, 4, 8, 1))[0]
            step()
        if self.is_fenced:
            self.fence()
        for _ in range(MANY):
            self.work()
            self.leases.start_due(claims=True)
            if self.connection.job is not None:
                self.succeed()

    def _turn(self) -> None:
        if self.connection.job is None:
            self.leases.start_due(claims=not self.is_fenced)
        elif self.results is None:
            end = self.luck.choice([self.commit, self.commit, self.succeed, self.refuse, self.lose])
            end()
        else:
            end = self.luck.choice([self.submit, self.succeed, self.lose])
            end()

    def check(self) -> None:
        """Require that nothing was lost, and nothing done twice."""
        database = self.database
        assert not database.ready, "a task is never claimed"
        assert not database.leases, "a task is never run, or its result never recorded"
        assert not database.stale, "a task was released while it ran"
        assert not self.leases._held, "a lease is kept for ever"
        assert not self.leases._recorder.is_pending, "an outcome is kept for ever"
        assert len(set(self.runs)) == len(self.runs), "a task was run twice under one lease"


def lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live through many histories."""
    for seed in range(HISTORIES):
        peer = Peer(monkeypatch, seed)
        peer.live()
        peer.check()


def test_nothing_is_lost_and_nothing_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transactions are lost before or after the COMMIT, and refused. Meanwhile notifications come,
    and the peer is fenced.
    """
    lives(monkeypatch)


def _forget(*_: object, **__: object) -> None:
    """Do nothing."""


def _forget_batch(self: Outbox) -> None:
    self._taken = None


def _keep_no_lease(_: Leases, claim: Any) -> None:
    claim.local_queue.claimed(claim)


def _ignore_during_claim(self: Claims) -> None:
    for local_queue in self._queues.values():
        local_queue.claim_now()


@pytest.mark.parametrize(
    ("owner", "name", "variant"),
    [
        (Outbox, "put_back", _forget_batch),  # the outcomes of a lost transaction are dropped
        (Recorder, "refused", lambda self: _forget_batch(self._outbox)),
        (Claims, "take", _forget),  # the replies to claims are dropped
        (Leases, "reconnected", _forget),  # no reconcile after a loss
        (Leases, "_claimed", _keep_no_lease),  # a reconcile releases what runs
        (Claims, "poll_now", _ignore_during_claim),  # a notification during a claim is dropped
        (LocalQueue, "drop", _forget),  # what was released may still be run
    ],
)
def test_a_peer_without_this_safeguard_is_caught(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, variant: Callable[..., None]
) -> None:
    """The broken variants."""
    monkeypatch.setattr(owner, name, variant)
    with pytest.raises(AssertionError):
        lives(monkeypatch)
