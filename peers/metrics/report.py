"""Report to the database what a peer has counted since the last report."""

from __future__ import annotations

import threading
from operator import attrgetter, sub
from typing import Any, Final, NamedTuple
from uuid import UUID

from peers.database import functions
from peers.database.connection import Connection
from peers.metrics.counts import COUNTERS, Counts, KindCounts

_read_counters: Final = attrgetter(*COUNTERS)


class _Snapshot(NamedTuple):
    """The counts of one kind at one moment."""

    counters: tuple[int, ...]
    run_seconds: float
    run_buckets: tuple[int, ...]
    wait_seconds: float
    wait_buckets: tuple[int, ...]

    @classmethod
    def of(cls, counts: KindCounts) -> _Snapshot:
        """Copy the counts."""
        return cls(
            _read_counters(counts), counts.run.seconds, tuple(counts.run.buckets),
            counts.wait.seconds, tuple(counts.wait.buckets),
        )  # fmt: skip


_NOTHING: Final = _Snapshot.of(KindCounts())


class Report:
    """Sends the differences since the last report, if there are any.

    The thread of the heartbeat sends a report after each heartbeat, and the main loop sends the
    last one. A report that fails is sent again with the next one. If only its reply was lost, it is
    counted twice.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._sent: dict[tuple[str, str], _Snapshot] = {}
        self._fenced_sent = 0
        self._lock = threading.Lock()

    def send(self, connection: Connection, peer_id: UUID) -> None:
        """Send what is new. Raises errors of the database, and keeps the counts then."""
        with self._lock:
            fenced = self._counts.fenced
            now = {key: _Snapshot.of(counts) for key, counts in self._counts.by_kind()}
            changed = {key: each for key, each in now.items() if each != self._sent.get(key)}
            metrics = [
                {"queue": queue, "kind": kind} | _difference(each, self._sent.get((queue, kind)))
                for (queue, kind), each in sorted(changed.items())
            ]
            if fenced > self._fenced_sent:
                metrics.append({"fenced": fenced - self._fenced_sent})
            if metrics:
                functions.record_metrics(connection, peer_id, metrics)
                self._sent |= changed
                self._fenced_sent = fenced


def _difference(now: _Snapshot, sent: _Snapshot | None) -> dict[str, Any]:
    """Return what has been counted since, in the form of peers.record_metrics."""
    before = sent or _NOTHING
    found: dict[str, Any] = {
        name: new - old
        for name, new, old in zip(COUNTERS, now.counters, before.counters, strict=True)
        if new != old
    }
    for name in ("run", "wait"):
        buckets: tuple[int, ...] = getattr(now, f"{name}_buckets")
        earlier: tuple[int, ...] = getattr(before, f"{name}_buckets")
        if buckets != earlier:
            seconds = getattr(now, f"{name}_seconds") - getattr(before, f"{name}_seconds")
            found[f"{name}_seconds"] = max(0.0, seconds)
            found[f"{name}_buckets"] = list(map(sub, buckets, earlier))
    return found
