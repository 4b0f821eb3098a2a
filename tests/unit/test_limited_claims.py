"""When a peer looks for limited tasks."""

from __future__ import annotations

from peers.database.rows import ClaimReply
from peers.peer.limited_claims import LimitedClaims
from peers.pool.durations import DurationEstimate
from peers.pool.local_queue import LocalQueue

POLL = 60.0


def a_reply(
    waits: str | None = None, opens_in: float | None = None, *, unlimited: bool = False,
    limited: bool = True,
) -> ClaimReply:  # fmt: skip
    """The last row of a claim."""
    resume = b"resume" if unlimited else None
    return ClaimReply(
        b"", 0, b"", b"", (), (), None, b"[]", resume, False, limited=limited, waits=waits,
        opens_in=opens_in,
    )  # fmt: skip


def some_claims() -> tuple[LimitedClaims, LocalQueue]:
    """Those of a queue with four slots, which has limits."""
    queue = LocalQueue("default", 4, DurationEstimate(), {})
    claims = LimitedClaims(queue)
    claims.note(a_reply(unlimited=True), None, 0, 0.0, POLL)
    return claims, queue


def test_without_limits_it_never_looks() -> None:
    """Nor once the last limit is removed."""
    claims, _ = some_claims()
    claims.note(a_reply(limited=False), 4, 0, 1.0, POLL)
    assert not claims.active
    assert claims.due_at(1.0) == float("inf")
    assert claims.unlimited(7, 1.0) == 7


def test_it_looks_for_as_many_as_can_start() -> None:
    """For none while no slot is free."""
    claims, queue = some_claims()
    assert claims.free_slots(1.0) == 4
    queue.started(3, slots=3)
    assert claims.free_slots(1.0) == 1
    queue.started(1, slots=1)
    assert claims.due_at(1.0) == float("inf")


def test_it_comes_again_when_the_answer_says_so() -> None:
    """Busy: at once. Full: when it may be free. Shut: when it opens. Nothing: when notified."""
    claims, queue = some_claims()
    for reply, first, last in (
        (a_reply("busy"), 0.0, 0.005),
        (a_reply("more"), 0.001, 0.02),
        (a_reply("full"), 0.1, 0.5),
        (a_reply("full", opens_in=0.05), 0.05, 0.06),
        (a_reply(None), POLL, POLL),
        (a_reply(None, opens_in=3.0), 3.0, 3.01),
    ):
        claims.claim_now()
        claims.note(reply, 4, 0, 100.0, POLL)
        assert 100 + first <= claims.due_at(100.0) <= 100 + last, reply
    queue.limited_ended = True
    assert claims.due_at(100.0) == 0.0, "a task of this peer has ended: there may be room"
    queue.limited_ended = False
    claims.claim_now()
    assert claims.due_at(100.0) == 0.0


def test_it_looks_at_more_keys_less_and_less_often() -> None:
    """While each look finds only keys that are full."""
    claims, _ = some_claims()
    waits = []
    for _ in range(8):
        claims.note(a_reply("more"), 4, 0, 100.0, POLL)
        waits.append(claims.due_at(100.0) - 100)
    assert waits == sorted(waits)
    assert waits[-1] > 0.2
    claims.note(a_reply("more"), 4, 2, 100.0, POLL)
    assert claims.due_at(100.0) - 100 < 0.01


def test_it_looks_at_full_keys_less_and_less_often() -> None:
    """While no task of this peer ends, and nothing is notified."""
    claims, _ = some_claims()
    waits = []
    for _ in range(12):
        claims.note(a_reply("full"), 4, 0, 100.0, POLL)
        waits.append(claims.due_at(100.0) - 100)
    assert waits[0] < 0.5
    assert 0.6 < waits[-1] < 1.5
    claims.claim_now()
    claims.note(a_reply("full"), 4, 0, 100.0, POLL)
    assert claims.due_at(100.0) - 100 < 0.5


def test_unlimited_tasks_leave_slots_to_limited_ones_that_come_first() -> None:
    """They are not claimed in advance then."""
    claims, queue = some_claims()
    claims.note(a_reply("slots", unlimited=True), 4, 4, 1.0, POLL)
    assert claims.unlimited(100, 1.0) == 4
    queue.started(4, slots=4)
    assert claims.unlimited(100, 1.0) == 0
    queue.finished(1, slots=1)
    assert claims.unlimited(100, 1.0) == 1
    claims.note(a_reply("full", unlimited=True), 1, 1, 1.0, POLL)
    assert claims.unlimited(100, 1.0) == 100


def test_it_sees_limited_tasks_although_every_slot_is_busy() -> None:
    """Ten times a second a claim of unlimited ones looks for limited ones, too."""
    claims, queue = some_claims()
    claims.note(a_reply(None, unlimited=True), 4, 0, 1.0, POLL)
    queue.started(4, slots=4)
    assert claims.free_slots(1.05) is None
    assert claims.free_slots(1.2) == 0
    claims.note(a_reply("slots", unlimited=True), 0, 0, 1.2, POLL)
    assert claims.unlimited(100, 1.2) == 0


def test_a_peer_of_limited_kinds_claims_nothing_else() -> None:
    """There is nothing that it could claim in advance."""
    claims, _ = some_claims()
    claims.note(a_reply(None), 4, 0, 1.0, POLL)
    assert claims.unlimited(100, 1.0) == 0
