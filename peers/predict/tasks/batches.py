"""Predict the rows of a chunk batch by batch."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import pyarrow as pa

from peers import current_task
from peers.predict.spec import Manifest
from peers.predict.tasks import cpu_clock
from peers.predict.tasks.batch_marker import Batch, BatchMarker
from peers.predict.tasks.batch_sizes import BatchSizer, max_batch_rows_after, max_isolated_rows
from peers.predict.tasks.chunk_predictions import ChunkPredictions
from peers.predict.tasks.isolate import isolate, retry_if_endpoint_fails

if TYPE_CHECKING:
    from peers.predict.models import Predictions

Predict: TypeAlias = Callable[[pa.Table], "Awaitable[Predictions]"]

_PROGRESS_INTERVAL: Final = 0.5
"""Seconds: each report is a statement of the peer."""


async def run_batches(
    manifest: Manifest, table: pa.Table, predict: Predict, marker: BatchMarker,
    found: ChunkPredictions,
) -> None:  # fmt: skip
    """Predict every valid row and add the outcomes to `found`."""
    features = manifest.features_of(table)
    valid = _ValidRows(table.num_rows, found.problems)
    sizer = _batch_sizer(
        manifest.run, manifest.rows_per_second, manifest.call_seconds, manifest.timeout
    )

    async def call(indices: Sequence[int]) -> Predictions:
        return await predict(_take(features, indices))

    async def on_failure(error: Exception, rows: Sequence[int]) -> None:
        # a single row cannot show by itself whether it or the endpoint is to blame
        others = [index for index in valid.all() if len(rows) > 1 or index != rows[0]]
        await retry_if_endpoint_fails(others, call, error)

    reported_at = time.monotonic()
    crashed = marker.crashed_batches(died=current_task().attempt > 1)
    most = max_batch_rows_after([batch.rows for batch in crashed], manifest.batch_size)
    to_isolate = sorted(batch for batch in crashed if batch.rows <= max_isolated_rows(len(crashed)))
    for batch in _batches(table.num_rows, to_isolate, lambda: batch_rows(manifest, sizer, most)):
        indices = valid.between(batch.first, batch.first + batch.rows)
        if batch in to_isolate:
            found.to_isolate.update(indices)
        elif indices:
            began = cpu_clock.seconds()
            with marker.running(batch):
                outcome = await isolate(indices, call, on_failure)
            if outcome.calls == 1:
                sizer.record_call(batch.rows, cpu_clock.seconds() - began)
            found.add(outcome)
        if time.monotonic() - reported_at > _PROGRESS_INTERVAL:
            reported_at = time.monotonic()
            current_task().progress(batch.first + batch.rows, table.num_rows)


def batch_rows(manifest: Manifest, sizer: BatchSizer, most: int) -> int:
    """Return the size of the next batch; requests to a remote model all have the same size."""
    return most if manifest.asynchronous else min(sizer.rows, most)


@lru_cache(maxsize=4)
def _batch_sizer(
    _run: str, rows_per_second: float | None, call_seconds: float | None, timeout: float | None
) -> BatchSizer:
    """Return the run's sizer of this worker, which keeps what it learnt in earlier chunks."""
    return BatchSizer(rows_per_second, call_seconds, timeout)


def _batches(rows: int, to_isolate: Sequence[Batch], size: Callable[[], int]) -> Iterator[Batch]:
    """Cut a chunk into batches; the batches that killed a worker keep their bounds."""
    first = 0
    waiting = list(to_isolate)
    while first < rows:
        while waiting and waiting[0].first < first:
            waiting.pop(0)
        if waiting and waiting[0].first == first:
            batch = waiting.pop(0)
        else:
            end = waiting[0].first if waiting else rows
            batch = Batch(first, min(size(), end - first))
        yield batch
        first += batch.rows


class _ValidRows:
    """The rows that the model can be called with: those without a problem."""

    def __init__(self, rows: int, problems: dict[int, str]) -> None:
        self._rows, self._invalid = rows, sorted(problems)

    def all(self) -> Sequence[int]:
        return self.between(0, self._rows)

    def between(self, start: int, stop: int) -> Sequence[int]:
        first, last = bisect_left(self._invalid, start), bisect_left(self._invalid, stop)
        invalid = set(self._invalid[first:last])
        if not invalid:
            return range(start, stop)
        return [index for index in range(start, stop) if index not in invalid]


def _take(features: pa.Table, indices: Sequence[int]) -> pa.Table:
    first, count = indices[0], len(indices)
    if indices[-1] - first + 1 == count:
        return features.slice(first, count)  # copies nothing
    return features.take(pa.array(indices, pa.int64()))
