"""When a peer claims, and from where."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import cast
from uuid import UUID, uuid4

import pytest
from psycopg.pq.abc import PGresult

from peers.database import statements
from peers.database.binary import pack_ids
from peers.database.reconnecting import ReconnectingConnection
from peers.database.rows import ClaimReply
from peers.peer import claims as claims_module
from peers.peer.claims import Claims
from peers.peer.state import PeerState
from peers.pool.claim import Claim
from peers.pool.durations import DurationEstimate
from peers.pool.local_queue import LocalQueue
from tests.support.claims import ONE_ATTEMPT

PEER = uuid4()
HOUR = 3600.0
NOTHING = ClaimReply(b"", 0, b"", b"", (), (), None, b"[]", None, more=False)


class Database:
    """What the statements say, and the replies to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.resumed: list[bytes | None] = []
        monkeypatch.setattr(statements, "claim", self._claim)
        monkeypatch.setattr(statements, "read_claim", lambda reply: reply)
        self.resumed_limited: list[bytes | None] = []
        monkeypatch.setattr(statements, "claim_limited", self._claim_limited)
        monkeypatch.setattr(statements, "read_limited_claim", lambda reply: [reply])

    def _claim(
        self, _peer: UUID, _queue: str, _most: int, resume: bytes | None, *, durable: bool
    ) -> str:
        assert durable
        self.resumed.append(resume)
        return "claim"

    def _claim_limited(self, *given: object, durable: bool) -> str:
        assert durable
        self.resumed_limited.append(cast("bytes | None", given[-1]))
        return "claim limited"

    def retry_at(self, _job: str) -> float:
        """Nothing is put off."""
        return 0.0

    def put_off(self, _job: str, _error: Exception) -> None:
        """The next try is due at once."""

    def succeeded(self, *_jobs: str) -> None:
        """Nothing was put off."""


class World:
    """The claims of a peer with one queue, which polls every hour."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, is_listening: bool = True, slots: int = 2
    ) -> None:
        self.database = Database(monkeypatch)
        self.state = PeerState(PEER)
        self.claimed: list[Claim] = []
        self.durations = DurationEstimate()
        self.queue = LocalQueue("default", slots, self.durations, {})
        self.claims = Claims(
            self.state, cast("ReconnectingConnection", self.database), {"default": self.queue},
            HOUR, lambda: is_listening, self.claimed.append,
        )  # fmt: skip

    def claim(
        self, reply: ClaimReply = NOTHING, *, notified: bool = False, with_outcomes: bool = False
    ) -> bool:
        """Claim what is due; return whether something was. `notified`: in the meantime."""
        self.claims.end_turn()
        requests = self.claims.due(with_outcomes=with_outcomes)
        self.claims.write(PEER, requests, durable=True)
        if notified:
            self.claims.poll_now()
        self.claims.take(requests, [cast("PGresult", reply)] * len(requests))
        return bool(requests)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A peer that is notified."""
    return World(monkeypatch)


def a_reply(resume: bytes | None = None, count: int = 1, *, more: bool = False) -> ClaimReply:
    """A reply with tasks."""
    return ClaimReply(
        uuid4().bytes, count, pack_ids(range(count)), ONE_ATTEMPT, ("a",), (100,), None,
        b"[%b]" % b",".join([b"{}"] * count), resume, more,
    )  # fmt: skip


def test_an_empty_queue_is_left_alone_until_a_notification(world: World) -> None:
    """Or until the next poll, whose time has some jitter."""
    assert world.claim()
    asked = time.monotonic()
    assert not world.claim()
    assert asked + 0.7 * HOUR < world.claims.due_at() < time.monotonic() + 1.3 * HOUR
    world.claims.poll_now()
    assert world.claims.due_at() == 0.0
    assert world.claim()


def test_a_notification_during_a_claim_counts(world: World) -> None:
    """The claim may have looked before the tasks were there."""
    assert world.claim(notified=True)
    assert world.claim()
    assert not world.claim()


def test_a_peer_that_is_not_notified_polls_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the poll interval is."""
    world = World(monkeypatch, is_listening=False)
    asked = time.monotonic()
    world.claim()
    assert asked + 0.5 < world.claims.due_at() < time.monotonic() + 1.5


def test_a_claim_that_is_not_finished_is_followed_at_once(world: World) -> None:
    """The database has spent its limits on stale rows."""
    assert world.claim(a_reply(count=0, more=True))
    assert world.claim(a_reply(count=1))
    assert not world.claim()
    [claim] = world.claimed
    assert claim.count == 1


def test_outcomes_claim_what_they_unblock(world: World) -> None:
    """After one has made tasks ready, until one has not: a claim of nothing costs time."""
    world.claim()
    assert not world.claim(with_outcomes=True)
    world.claims.made_ready()
    assert world.claim(a_reply())
    assert not world.claim()
    assert world.claim(a_reply(), with_outcomes=True)
    assert world.claim(with_outcomes=True)
    assert not world.claim(with_outcomes=True)


def test_a_transaction_that_claimed_what_it_made_ready_is_not_followed(world: World) -> None:
    """Its notification comes with its replies. That of a transaction without a claim counts."""
    world.claim()
    world.claims.made_ready()
    assert not world.claim()
    world.claims.made_ready()
    assert world.claim()


def test_what_a_chore_makes_ready_right_after_a_claim_is_claimed(world: World) -> None:
    """Such as promoted tasks: the claim before the chore could not see them."""
    assert world.claim()
    world.claims.end_turn()
    world.claims.made_ready()
    assert world.claim()


def test_while_outcomes_unblock_tasks_a_full_peer_claims_with_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next outcomes come soon, and a claim of its own costs more. It waits only a moment."""
    assert 0 < claims_module._WITH_OUTCOMES_WITHIN < 0.1
    monkeypatch.setattr(claims_module, "_WITH_OUTCOMES_WITHIN", 60.0)  # it is not over meanwhile
    world.durations.note("a", 0.001)
    world.claim(a_reply())
    world.queue.claimed(world.claimed[0])  # from now on it wants more than its slots
    world.claims.made_ready()
    world.claims.poll_now()
    asked = time.monotonic()
    assert world.claim(a_reply(count=2), notified=True)
    assert not world.claim()
    assert asked + 60 <= world.claims.due_at() <= time.monotonic() + 60
    world.queue.started(2, slots=2)
    world.claims.poll_now()
    assert not world.claim()
    world.queue.finished(1, slots=1)
    world.claims.poll_now()
    assert world.claim()


def test_a_claim_begins_where_the_last_one_ended(world: World) -> None:
    """Whatever the last one brought; not after a reconnect."""
    for reply in (a_reply(b"first"), a_reply(b"second", count=0), a_reply(b"third")):
        world.claims.poll_now()
        world.claim(reply)
    world.claims.poll_now()
    world.claim()
    world.claims.forget_positions()
    world.claims.poll_now()
    world.claim()
    assert world.database.resumed == [None, b"first", b"second", b"third", None]


def test_a_claim_of_limited_tasks_begins_where_the_last_one_ended(world: World) -> None:
    """It has a memory of its own, which a claim without limited tasks leaves alone."""
    replies = [replace(NOTHING, limited=True, limited_resume=each) for each in (b"1", b"2")]
    for reply in (replace(NOTHING, limited=True), *replies, replies[-1]):
        world.claims.poll_now()
        world.claim(reply)
    world.claims.forget_positions()
    world.claims.poll_now()
    world.claim()
    assert world.database.resumed_limited == [None, b"1", b"2", None]


def test_a_draining_peer_claims_nothing(world: World) -> None:
    """Nor does it wake up for a claim."""
    world.state.draining = True
    world.claims.poll_now()
    assert not world.claim()
    assert world.claims.due_at() == float("inf")


def test_a_refused_claim_wants_fewer_tasks_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have taken too long. After one that works it grows again."""
    world = World(monkeypatch, slots=64)
    wanted = []
    for refused in (True, True, True, True, False, False):
        [request] = world.claims.due()
        wanted.append(request.wanted)
        if refused:
            world.claims.refused(request, TimeoutError())
        else:
            world.claims.take([request], [cast("PGresult", a_reply(count=0, more=True))])
    usual = wanted[0]
    assert wanted == [usual, usual // 4, usual // 16, 1, 1, 2]
    for _ in range(20):
        requests = world.claims.due()
        world.claims.take(requests, [cast("PGresult", a_reply(count=0, more=True))])
    [request] = world.claims.due()
    assert request.wanted == usual
