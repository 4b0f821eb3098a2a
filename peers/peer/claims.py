"""Decide which queues to claim from, and take the replies."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers.database import statements
from peers.database.pipeline import Statement
from peers.database.reconnecting import ReconnectingConnection
from peers.database.rows import ClaimReply
from peers.peer.limited_claims import LimitedClaims
from peers.peer.state import PeerState
from peers.pool.claim import START_WITHIN, Claim
from peers.pool.durations import CLAIM_MAX_TASKS
from peers.pool.local_queue import LocalQueue

_POLL_JITTER: Final = 0.25
_POLL_WITHOUT_NOTIFICATIONS: Final = 1.0
_WITH_OUTCOMES_WITHIN: Final = 0.02
"""Seconds that a claim waits for outcomes that are about to come, to be part of their transaction,
while there is no free slot."""
_SHRINK: Final = 4
"""A claim that the database refuses is tried again for so many times fewer tasks."""


class ClaimRequest(NamedTuple):
    """A claim that is due."""

    local_queue: LocalQueue
    wanted: int
    free_slots: int | None = None
    """How many limited tasks can start at once. None: do not claim any."""

    @property
    def job(self) -> str:
        """Return its name, for the log and for the retries."""
        return f"claims from queue {self.local_queue.queue}"


class Claims:
    """Asks the database for tasks: after each notification, and at every poll interval.

    Each claim passes what the last claim of its queue has returned for it. So the database need not
    walk over the rows of finished tasks again.
    """

    def __init__(
        self,
        state: PeerState,
        connection: ReconnectingConnection,
        queues: Mapping[str, LocalQueue],
        poll_interval: float,
        is_listening: Callable[[], bool],
        on_claimed: Callable[[Claim], None],
    ) -> None:
        self._state = state
        self._connection = connection
        self._queues = queues
        self._poll_interval = poll_interval
        self._is_listening = is_listening
        self._on_claimed = on_claimed
        self._limited = {name: LimitedClaims(queue) for name, queue in queues.items()}
        self._sent_at = 0.0
        self._resume: dict[str, bytes | None] = {}
        """Where the next claim of each queue begins."""
        self._limited_resume: dict[str, bytes | None] = {}
        """The same for limited tasks."""
        self._most: dict[str, int] = {}
        """How many tasks to claim at most, by queue, after the database refused a claim."""
        self._is_outdated = False
        """Tasks may have become ready since the claims in progress were sent."""
        self._outcomes_unblock = False
        """Outcomes have unblocked tasks lately, so the next outcomes are sent with a claim."""
        self._with_outcomes = False
        """The last transaction with claims also recorded outcomes."""
        self._just_claimed: set[str] = set()
        """The queues from which the last transaction has claimed."""

    def due_at(self) -> float:
        """Return when (monotonic) the next claim is due."""
        if self._state.draining:
            return float("inf")
        now = time.monotonic()
        return min((self._next_claim(q, now)[0] for q in self._queues.values()), default=_NEVER)

    def due(self, *, with_outcomes: bool = False) -> list[ClaimRequest]:
        """Return the claims that are due now: of what the slots will soon need.

        `with_outcomes`: the same transaction records outcomes. Then queues that are empty so far
        count as well, if outcomes have unblocked tasks lately.
        """
        self._with_outcomes = with_outcomes
        if self._state.draining:
            return []
        now = time.monotonic()
        follow = with_outcomes and self._outcomes_unblock
        requests = (self._request(q, now, follow=follow) for q in self._queues.values())
        return [request for request in requests if request is not None]

    def write(
        self, peer_id: UUID, requests: Sequence[ClaimRequest], *, durable: bool
    ) -> list[Statement]:
        """Return a statement for each of these claims, which are sent now."""
        self._is_outdated = False
        self._sent_at = time.monotonic()
        return [self._write(peer_id, request, durable=durable) for request in requests]

    def _write(self, peer_id: UUID, request: ClaimRequest, *, durable: bool) -> Statement:
        local_queue, wanted, free_slots = request
        resume = self._resume.get(local_queue.queue)
        if free_slots is None:
            return statements.claim(peer_id, local_queue.queue, wanted, resume, durable=durable)
        local_queue.limited_ended = False
        freed_keys = local_queue.take_freed_keys() if free_slots else set()
        return statements.claim_limited(
            peer_id, local_queue.queue, wanted, free_slots, local_queue.tasks_per_slot(), resume,
            freed_keys, self._limited_resume.get(local_queue.queue), durable=durable,
        )  # fmt: skip

    def take(self, requests: Sequence[ClaimRequest], results: Sequence[PGresult]) -> None:
        """Take the replies to these claims."""
        now = time.monotonic()
        found = [
            self._take(request, result, now)
            for request, result in zip(requests, results, strict=True)
        ]
        if found and self._with_outcomes and not any(found):
            self._outcomes_unblock = False

    def _take(self, request: ClaimRequest, result: PGresult, now: float) -> bool:
        """Take the reply to a claim, and return whether it has claimed anything."""
        local_queue, wanted, free_slots = request
        limited = self._limited[local_queue.queue]
        taken, reply = self._take_limited(request, result, now)
        self._connection.succeeded(request.job)
        self._state.counts.claimed(local_queue.queue, reply)
        self._grow(request)
        self._resume[local_queue.queue] = reply.resume
        self._just_claimed.add(local_queue.queue)
        limits_are_new = reply.limited and not limited.active
        is_empty = reply.count < wanted - taken and not reply.more and not limits_are_new
        wait = self._wait()
        self._postpone(local_queue, reply, now, wait, is_empty=is_empty)
        limited.note(reply, free_slots, taken, now, wait)
        if self._is_outdated:
            limited.claim_now()
        if reply.count:
            self._on_claimed(Claim(reply, local_queue, now))
        return taken + reply.count > 0

    def _take_limited(
        self, request: ClaimRequest, result: PGresult, now: float
    ) -> tuple[int, ClaimReply]:
        """Take the limited tasks of a reply, and return how many they are, and the rest of it."""
        if request.free_slots is None:
            return 0, statements.read_claim(result)
        *leases, rest = statements.read_limited_claim(result)
        self._limited_resume[request.local_queue.queue] = rest.limited_resume
        for lease in leases:
            self._state.counts.claimed(request.local_queue.queue, lease)
            claim = Claim(lease, request.local_queue, now)
            if lease.start_in is not None:
                claim.start_by = self._sent_at + START_WITHIN
            self._on_claimed(claim)
        return sum(lease.count for lease in leases), rest

    def _postpone(
        self, local_queue: LocalQueue, reply: ClaimReply, now: float, wait: float, *, is_empty: bool
    ) -> None:
        """Put off the next claim of a queue as far as the last reply allows."""
        if is_empty and not self._is_outdated:
            local_queue.postpone_claim(now + wait)
        elif is_empty and self._outcomes_unblock and reply.count >= local_queue.slots:
            local_queue.postpone_claim(now + _WITH_OUTCOMES_WITHIN)

    def refused(self, request: ClaimRequest, error: Exception) -> None:
        """Put off a claim that the database has refused, and want fewer tasks then.

        It may have taken too long: because of large args, or of a trigger that raises, for which
        the database starts the tasks one by one.
        """
        self._most[request.local_queue.queue] = max(1, request.wanted // _SHRINK)
        self._connection.put_off(request.job, error)

    def poll_now(self) -> None:
        """Make claims due now: tasks may be ready.

        While all slots are busy and outcomes unblock tasks, the claim waits a moment for the next
        outcomes: with them it costs less.
        """
        self._is_outdated = True
        soon = time.monotonic() + _WITH_OUTCOMES_WITHIN
        for local_queue in self._queues.values():
            if self._outcomes_unblock and local_queue.free_slots <= 0:
                local_queue.postpone_claim(min(local_queue.next_claim_at, soon))
            else:
                local_queue.claim_now()
            self._limited[local_queue.queue].claim_now()

    def made_ready(self) -> None:
        """Make claims due that the last transaction did not make: it has made tasks ready itself.

        It claimed after it had recorded its outcomes, so a claim saw what these unblocked. The next
        transaction with outcomes claims as well.
        """
        self._outcomes_unblock = True
        for local_queue in self._queues.values():
            limited = self._limited[local_queue.queue]
            if local_queue.queue not in self._just_claimed or limited.active:
                local_queue.claim_now()
                limited.claim_now()

    def end_turn(self) -> None:
        """Note that the notifications of the last transaction have come.

        What tells that tasks are ready from now on, such as a chore that promotes them, is later
        than its claims.
        """
        self._just_claimed.clear()

    def forget_positions(self) -> None:
        """Begin the next claims where the queues begin."""
        self._resume.clear()
        self._limited_resume.clear()

    def _next_claim(self, local_queue: LocalQueue, now: float) -> tuple[float, int]:
        """Return when (monotonic) a claim is due, and how many unlimited tasks it wants by now."""
        limited = self._limited[local_queue.queue]
        retry_at = self._connection.retry_at(f"claims from queue {local_queue.queue}")
        wanted = limited.unlimited(local_queue.wanted(), now)
        unlimited_at = local_queue.next_claim_at if wanted else _NEVER
        due_at = max(min(unlimited_at, limited.due_at(now)), retry_at)
        return due_at, wanted if now >= unlimited_at else 0

    def _request(self, local_queue: LocalQueue, now: float, *, follow: bool) -> ClaimRequest | None:
        if follow and self._limited[local_queue.queue].unlimited(local_queue.wanted(), now):
            local_queue.claim_now()
        due_at, wanted = self._next_claim(local_queue, now)
        if now < due_at:
            return None
        limited = self._limited[local_queue.queue]
        free_slots = None
        if limited.active:
            free_slots = limited.free_slots(now)
        wanted = max(wanted, free_slots or 0)
        most = self._most.get(local_queue.queue, wanted)
        if free_slots:
            free_slots = min(free_slots, most)
        return ClaimRequest(local_queue, min(wanted, most), free_slots)

    def _grow(self, request: ClaimRequest) -> None:
        """Want twice as many tasks after a claim that worked, until nothing limits it."""
        queue = request.local_queue.queue
        most = self._most.get(queue, CLAIM_MAX_TASKS)
        if most >= CLAIM_MAX_TASKS:
            self._most.pop(queue, None)
        elif request.wanted == most:  # a smaller claim proves nothing
            self._most[queue] = 2 * most

    def _wait(self) -> float:
        """Return the seconds until the next poll, while no notification comes."""
        interval = self._poll_interval
        if not self._is_listening():
            interval = min(interval, _POLL_WITHOUT_NOTIFICATIONS)
        return interval * (1 + random.uniform(-_POLL_JITTER, _POLL_JITTER))


_NEVER: Final = float("inf")
