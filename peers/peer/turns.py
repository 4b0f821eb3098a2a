"""Record outcomes and claim tasks, in one transaction and one round trip."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg.pq.abc import PGresult

from peers.database.jobs import Job
from peers.database.pipeline import StatementRefused
from peers.database.reconnecting import ReconnectingConnection
from peers.errors import PeerLost
from peers.peer.batch import Batch
from peers.peer.claims import ClaimRequest, Claims
from peers.peer.recorder import Recorder
from peers.peer.state import PeerState


class Turns:
    """One transaction after the other: each records outcomes and claims what the slots need.

    The tasks that the outcomes unblock can be claimed in the same transaction. The main loop serves
    the workers meanwhile. A transaction without outcomes need not wait for the disk, unless claims
    are to be durable: if Postgres crashes it may forget the claim, and its tasks run again.
    """

    def __init__(
        self, state: PeerState, connection: ReconnectingConnection, recorder: Recorder,
        claims: Claims, *, durable_claims: bool,
    ) -> None:  # fmt: skip
        self._state = state
        self._connection = connection
        self._recorder = recorder
        self._claims = claims
        self._durable_claims = durable_claims

    def due_at(self) -> float:
        """Return when (monotonic) the next transaction is due."""
        return min(self._recorder.due_at(), self._claims.due_at())

    def start_due(self, *, claims: bool) -> None:
        """Begin a transaction if one is due. Raises `PeerLost`, `DatabaseUnreachable`.

        `claims`: whether the peer may claim.
        """
        self._claims.end_turn()
        peer_id = self._state.peer_id
        if peer_id is None:
            return
        if self._connection.is_idle:
            self._recorder.record_refused()
        if not self._connection.is_idle:  # a refusal may have ended the session just now
            return
        requests = self._claims.due() if claims else []
        batch = self._recorder.take_due(with_claim=bool(requests))
        if claims and batch is not None:
            requests = self._claims.due(with_outcomes=True)
        if batch is None and not requests:
            return
        record = [] if batch is None else batch.statements(peer_id, self._connection.encoding)
        durable = self._durable_claims or bool(record)
        self._connection.start(
            Job(
                [*record, *self._claims.write(peer_id, requests, durable=durable)],
                lambda results: self._committed(batch, requests, results),
                lambda refused: self._refused(batch, requests, refused),
                self._recorder.put_back,
            )
        )

    def _committed(
        self, batch: Batch | None, requests: Sequence[ClaimRequest], results: Sequence[PGresult]
    ) -> None:
        outcomes = len(results) - len(requests)
        if batch is not None:
            self._recorder.conclude(results[:outcomes])
        self._claims.take(requests, results[outcomes:])

    def _refused(
        self, batch: Batch | None, requests: Sequence[ClaimRequest], refused: StatementRefused
    ) -> None:
        """Put off the claim that was refused, and find the outcome that was."""
        error, claim = refused.error, None
        if refused.index is not None:
            claim = refused.index - (0 if batch is None else batch.count)
        if claim is not None and claim >= 0:
            self._recorder.put_back()
            if isinstance(error, PeerLost):
                raise error
            self._claims.refused(requests[claim], error)
        elif batch is not None:
            self._recorder.refused()
        else:
            for request in requests:
                self._claims.refused(request, error)
