"""Predict the rows of a chunk batch by batch."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import pyarrow as pa

from peers import current_task
from peers.predict.models import stopwatch
from peers.predict.sizes import Pace, most_after, most_alone
from peers.predict.spec import Manifest
from peers.predict.tasks.done import Done
from peers.predict.tasks.isolate import isolate, require_answers
from peers.predict.tasks.journal import Batch, Journal

if TYPE_CHECKING:
    from peers.predict.models import Predictions

Predict: TypeAlias = Callable[[pa.Table], "Awaitable[Predictions]"]

_SAY_EVERY: Final = 0.5
"""Seconds: each time is a statement of the peer."""


async def run_batches(
    manifest: Manifest, table: pa.Table, predict: Predict, journal: Journal, done: Done
) -> None:
    """Predict every row that has no problem, and take what comes out into `done`."""
    features = manifest.features_of(table)
    fit = _Fit(table.num_rows, done.problems)
    pace = _pace(manifest.run, manifest.rows_per_second, manifest.call_seconds, manifest.timeout)

    async def call(indices: Sequence[int]) -> Predictions:
        return await predict(_pick(features, indices))

    async def on_failure(error: Exception, rows: Sequence[int]) -> None:
        # a row that is alone in its call cannot tell whether it is to blame
        others = [index for index in fit.every() if len(rows) > 1 or index != rows[0]]
        await require_answers(others, call, error)

    said_at = time.monotonic()
    killers = journal.reopen(died=current_task().attempt > 1)
    most = most_after([batch.rows for batch in killers], manifest.batch_size)
    alone = sorted(batch for batch in killers if batch.rows <= most_alone(len(killers)))
    for batch in _batches(table.num_rows, alone, lambda: batch_rows(manifest, pace, most)):
        indices = fit.between(batch.first, batch.first + batch.rows)
        if batch in alone:
            done.doubtful.update(indices)
        elif indices:
            began = stopwatch.seconds()
            with journal.entered(batch):
                found = await isolate(indices, call, on_failure)
            if found.calls == 1:
                pace.took(batch.rows, stopwatch.seconds() - began)
            done.add(found)
        if time.monotonic() - said_at > _SAY_EVERY:
            said_at = time.monotonic()
            current_task().progress(batch.first + batch.rows, table.num_rows)


def batch_rows(manifest: Manifest, pace: Pace, most: int) -> int:
    """Return the size of the next batch; requests to a model that is waited for are all alike."""
    return most if manifest.asynchronous else min(pace.rows, most)


@lru_cache(maxsize=4)
def _pace(
    _run: str, rows_per_second: float | None, call_seconds: float | None, timeout: float | None
) -> Pace:
    """Return what this worker has learnt of the run's model; other chunks go on with it."""
    return Pace(rows_per_second, call_seconds, timeout)


def _batches(rows: int, alone: Sequence[Batch], size: Callable[[], int]) -> Iterator[Batch]:
    """Cut a chunk into batches; those that killed a worker come as they were."""
    first = 0
    waiting = list(alone)
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


class _Fit:
    """The rows that the model can be called with: those without a problem."""

    def __init__(self, rows: int, problems: dict[int, str]) -> None:
        self._rows, self._unfit = rows, sorted(problems)

    def every(self) -> Sequence[int]:
        return self.between(0, self._rows)

    def between(self, start: int, stop: int) -> Sequence[int]:
        unfit = self._unfit[bisect_left(self._unfit, start) : bisect_left(self._unfit, stop)]
        if not unfit:
            return range(start, stop)
        without = set(unfit)
        return [index for index in range(start, stop) if index not in without]


def _pick(features: pa.Table, indices: Sequence[int]) -> pa.Table:
    first, count = indices[0], len(indices)
    if indices[-1] - first + 1 == count:
        return features.slice(first, count)  # copies nothing
    return features.take(pa.array(indices, pa.int64()))
