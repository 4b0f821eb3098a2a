"""What is over on this peer and not yet recorded in the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeAlias
from uuid import UUID

from peers import events, kernel
from peers.db import Connection
from peers.errors import BadTask
from peers.lane import Lease
from peers.model import Unsettled

MOST_SETTLED: Final = 500
_MOST_BYTES: Final = 16 << 20
"""Of results in one statement: Postgres would take more, its memory need not."""
_BUSY_AGAIN: Final = 0.1
"""Seconds after which an outcome is offered again that somebody's lock kept out."""

Failure: TypeAlias = dict[str, object]
"""The fields that peers.fail takes for a task."""


class Outbox:
    """Outcomes wait here, through outages too, until the database has taken or refused them.

    `done` is called for each lease that is settled, one way or the other.
    """

    def __init__(self, done: Callable[[Lease], None]) -> None:
        self._done = done
        self._completed: list[tuple[Lease, bytes]] = []
        self._failed: list[tuple[Lease, Failure]] = []
        self._aborted: list[Lease] = []
        self._later: list[tuple[float, Lease, bytes | Failure]] = []

    def __len__(self) -> int:
        return len(self._completed) + len(self._failed) + len(self._aborted)

    @property
    def waits(self) -> bool:
        """Whether anything is left, now or later."""
        return bool(self._completed or self._failed or self._aborted or self._later)

    def completed(self, lease: Lease, result: bytes) -> None:
        """The handler returned this JSON."""
        self._completed.append((lease, result))

    def failed(self, lease: Lease, failure: Failure) -> None:
        """The attempt failed."""
        self._failed.append((lease, failure))

    def aborted(self, leases: list[Lease]) -> None:
        """The attempt shall not count."""
        self._aborted += leases

    def next_due(self) -> float:
        """When (monotonic) something that was busy shall be offered again."""
        return min((due for due, _, _ in self._later), default=float("inf"))

    def flush(self, connection: Connection, peer_id: UUID) -> None:
        """Record what there is. When this raises, what was not recorded stays for another try."""
        self._bring_back()
        while self._completed:
            self._complete(connection, peer_id, self._completed[: self._batch_size()])
        while self._failed:
            self._fail(connection, peer_id, self._failed[:MOST_SETTLED])
        if self._aborted:
            self._release(connection, peer_id)

    def _bring_back(self) -> None:
        now = time.monotonic()
        due = [entry for entry in self._later if entry[0] <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for _, lease, outcome in due:
            if isinstance(outcome, bytes):
                self._completed.append((lease, outcome))
            else:
                self._failed.append((lease, outcome))

    def _batch_size(self) -> int:
        size = 0
        for count, (_, result) in enumerate(self._completed[:MOST_SETTLED], start=1):
            size += len(result)
            if size > _MOST_BYTES:
                return count
        return MOST_SETTLED

    def _complete(
        self, connection: Connection, peer_id: UUID, batch: list[tuple[Lease, bytes]]
    ) -> None:
        document = b",".join(
            b'{"task_id":%d,"token":"%s","result":%s}' % (lease.task.task_id, lease.token, result)
            for lease, result in batch
        )
        try:
            unsettled = kernel.complete(connection, peer_id, b"[%s]" % document)
        except BadTask as error:
            # one result that jsonb cannot hold must not keep the others out
            if len(batch) > 1:
                for one in batch:
                    self._complete(connection, peer_id, [one])
                return
            self._failed.append((batch[0][0], _result_invalid(str(error))))
            del self._completed[:1]
            return
        del self._completed[: len(batch)]
        self._conclude(batch, unsettled)

    def _fail(
        self, connection: Connection, peer_id: UUID, batch: list[tuple[Lease, Failure]]
    ) -> None:
        unsettled = kernel.fail(
            connection,
            peer_id,
            [
                {"task_id": lease.task.task_id, "token": lease.task.token, **failure}
                for lease, failure in batch
            ],
        )
        del self._failed[: len(batch)]
        self._conclude(batch, unsettled)

    def _release(self, connection: Connection, peer_id: UUID) -> None:
        """What is busy stays leased in the database; a later reconcile gives it back."""
        tasks = [lease.task for lease in self._aborted]
        reasons = [lease.stopped_because for lease in self._aborted]
        ids, tokens = [t.task_id for t in tasks], [t.token for t in tasks]
        kernel.release(connection, peer_id, ids, tokens, reasons)
        released, self._aborted = self._aborted, []
        for lease in released:
            self._done(lease)

    def _conclude(
        self,
        batch: list[tuple[Lease, bytes]] | list[tuple[Lease, Failure]],
        unsettled: list[Unsettled],
    ) -> None:
        verdicts = {(task_id, token): verdict for task_id, token, verdict in unsettled}
        for lease, outcome in batch:
            verdict = verdicts.get((lease.task.task_id, lease.task.token)) if verdicts else None
            if verdict == "busy":
                self._later.append((time.monotonic() + _BUSY_AGAIN, lease, outcome))
            elif verdict == "too large":
                self._failed.append((lease, _result_invalid("the result exceeds 1 MiB of JSON")))
            else:
                if verdict == "stale":
                    events.outcome_refused(
                        task_id=lease.task.task_id, kind=lease.task.kind, verdict=verdict
                    )
                self._done(lease)


def _result_invalid(message: str) -> Failure:
    return {"error_type": "ResultInvalid", "error_message": message}
