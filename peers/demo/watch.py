"""Looking at the run while it goes on: how far it is, and who holds what."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from peers.demo.figures import LOST
from peers.demo.handlers import index_file

if TYPE_CHECKING:
    from uuid import UUID

    import psycopg

    from peers.demo.submit import Submitted

_STATES = """
select kind, state::text, count(*)
from peers.task
where id between %(first)s and %(last)s and queue = %(queue)s
group by kind, state
"""
_RECLAIMED = """
select count(*), count(*) filter (where f.peer_id = %(peer_id)s)
from peers.failure f join peers.task t on t.id = f.task_id
where t.id between %(first)s and %(last)s and t.queue = %(queue)s and f.error_type = %(lost)s
"""
_HOLDINGS = """
select r.pid, r.peer_id, r.task_id
from peers.running r
where r.task_id between %(first)s and %(last)s and r.queue = %(queue)s and r.pid is not null
"""
ENDED = ("completed", "dead", "cancelled")


@dataclass(frozen=True)
class Tally:
    """How far the run is. `reclaimed_from_killed`: the leases that the killed peer had."""

    total: int
    files: int
    completed: int
    dead: int
    ended: int
    files_ended: int
    reclaimed: int
    reclaimed_from_killed: int


class Holding(NamedTuple):
    """The leases of one peer."""

    pid: int
    peer_id: UUID
    task_ids: frozenset[int]


class Watch:
    """One run, seen from the database."""

    def __init__(self, connection: psycopg.Connection[Any], submitted: Submitted) -> None:
        self._connection = connection
        self._submitted = submitted
        self._killed: UUID | None = None

    def mark_killed(self, peer_id: UUID) -> None:
        """From now on, count what is reclaimed from this peer."""
        self._killed = peer_id

    def tally(self) -> Tally:
        """Count."""
        where = self._submitted.where
        by_state: Counter[str] = Counter()
        files_ended = 0
        for kind, state, count in self._connection.execute(_STATES, where):
            by_state[state] += count
            files_ended += count if kind == index_file.kind and state in ENDED else 0
        parameters = {**where, "lost": LOST, "peer_id": self._killed}
        [(reclaimed, from_killed)] = self._connection.execute(_RECLAIMED, parameters).fetchall()
        return Tally(
            total=self._submitted.total,
            files=self._submitted.files,
            completed=by_state["completed"],
            dead=by_state["dead"],
            ended=sum(by_state[state] for state in ENDED),
            files_ended=files_ended,
            reclaimed=reclaimed,
            reclaimed_from_killed=from_killed,
        )

    def holdings(self) -> list[Holding]:
        """Who holds leases now; who holds most comes first."""
        held: defaultdict[tuple[int, UUID], set[int]] = defaultdict(set)
        for pid, peer_id, task_id in self._connection.execute(_HOLDINGS, self._submitted.where):
            held[pid, peer_id].add(task_id)
        holdings = [Holding(*peer, frozenset(task_ids)) for peer, task_ids in held.items()]
        return sorted(holdings, key=lambda holding: len(holding.task_ids), reverse=True)

    def cancel_rest(self) -> None:
        """Cancel what has not ended, so that no unfinished work stays behind."""
        self._connection.execute(
            """
            select peers.cancel(t.id) from peers.task t
            where t.id between %(first)s and %(last)s and t.queue = %(queue)s
              and t.state in ('ready', 'scheduled', 'running', 'blocked')
            order by t.id
            """,
            self._submitted.where,
        )
