"""Write outcomes as statements: one for all results, one for all failures, one for all releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from uuid import UUID

from peers.database import statements
from peers.database.binary import join_ids, pack_ids, pack_repeated, pack_tokens
from peers.database.pipeline import Statement
from peers.database.statements import LogToStore
from peers.peer.outcome import CompletedRun, Outcome


@dataclass(slots=True)
class Batch:
    """The outcomes that one transaction records."""

    completed: list[CompletedRun | Outcome] = field(default_factory=list)
    failed: list[Outcome] = field(default_factory=list)
    released: list[Outcome] = field(default_factory=list)
    logs: list[LogToStore] = field(default_factory=list)
    """The logs of attempts. They are no outcomes, and come last."""

    def parts(self) -> list[Sequence[CompletedRun | Outcome]]:
        """Return what each statement records; that of the logs comes behind them."""
        return [part for part in (self.completed, self.failed, self.released) if part]

    @property
    def count(self) -> int:
        """Return how many statements there are."""
        return len(self.parts()) + bool(self.logs)

    def statements(self, peer_id: UUID, encoding: str) -> list[Statement]:
        """Return a statement for each part.

        Only the first one is patient, and for all of them: it keeps other transactions waiting
        until the end of this one. A later one would already hold locks that those wait for.
        """
        patient = any(map(_is_patient, self.parts()))
        written = []
        if self.completed:
            written.append(complete(peer_id, self.completed, patient=patient))
        if self.failed:
            patient = patient and not written
            written.append(fail(peer_id, self.failed, encoding, patient=patient))
        if self.released:
            patient = patient and not written
            written.append(release(peer_id, self.released, patient=patient))
        if self.logs:
            written.append(statements.store_logs(peer_id, self.logs, encoding))
        return written


def record(peer_id: UUID, outcomes: Sequence[Outcome], encoding: str) -> Statement:
    """Record outcomes that are all results, all failures or all releases."""
    patient = _is_patient(outcomes)
    if outcomes[0].result is not None:
        return complete(peer_id, outcomes, patient=patient)
    if outcomes[0].failure is not None:
        return fail(peer_id, outcomes, encoding, patient=patient)
    return release(peer_id, outcomes, patient=patient)


def complete(
    peer_id: UUID, completed: Sequence[CompletedRun | Outcome], *, patient: bool
) -> Statement:
    """Record results. It makes no object for each task of a run."""
    counted, task_ids, results = [], [], []
    for each in completed:
        if isinstance(each, CompletedRun):
            counted.append((each.run.claim.token, each.run.count))
            task_ids.append(each.run.task_ids())
            results.append(each.results[1:-1])
        else:
            counted.append((each.lease.token, 1))
            task_ids.append(pack_ids([each.lease.task.task_id]))
            results.append(each.result or b"null")
    tokens = [
        (token, sum(count for _, count in same))
        for token, same in groupby(counted, lambda pair: pair[0])
    ]
    return statements.complete(
        peer_id,
        pack_tokens([tokens[0][0]]) if len(tokens) == 1 else pack_repeated(tokens),
        task_ids[0] if len(task_ids) == 1 else join_ids(task_ids),
        b"[%b]" % b",".join(results),
        patient=patient,
    )


def fail(peer_id: UUID, failed: Sequence[Outcome], encoding: str, *, patient: bool) -> Statement:
    """Record failures."""
    failures = [
        {
            "task_id": outcome.lease.task.task_id,
            "token": outcome.lease.task.token,
            **(outcome.failure or {}),
        }
        for outcome in failed
    ]
    return statements.fail(peer_id, failures, encoding, patient=patient)


def release(peer_id: UUID, released: Sequence[Outcome], *, patient: bool) -> Statement:
    """Release leases."""
    return statements.release(
        peer_id,
        [outcome.lease.task.task_id for outcome in released],
        [outcome.lease.token for outcome in released],
        [outcome.lease.stopped_because for outcome in released],
        patient=patient,
    )


def _is_patient(outcomes: Sequence[CompletedRun | Outcome]) -> bool:
    return any(outcome.is_patient for outcome in outcomes)
