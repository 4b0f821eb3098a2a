"""Predict the rows of a chunk batch by batch."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import pyarrow as pa

from peers import current_task
from peers.predict.done import Done
from peers.predict.isolate import isolate, require_answers
from peers.predict.journal import Journal
from peers.predict.spec import Manifest

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
    fit = [index for index in range(table.num_rows) if index not in done.problems]

    async def call(indices: Sequence[int]) -> Predictions:
        return await predict(_pick(features, indices))

    async def on_failure(error: Exception, rows: Sequence[int]) -> None:
        # a row that is alone in its call cannot tell whether it is to blame
        others = [index for index in fit if len(rows) > 1 or index != rows[0]]
        await require_answers(others, call, error)

    said_at = time.monotonic()
    killers = journal.reopen(died=current_task().attempt > 1)
    for start in range(0, table.num_rows, manifest.batch_size):
        stop = min(start + manifest.batch_size, table.num_rows)
        indices = [index for index in range(start, stop) if index not in done.problems]
        if start in killers:
            done.doubtful.update(indices)
        elif indices:
            with journal.entered(start):
                done.add(await isolate(indices, call, on_failure))
        if time.monotonic() - said_at > _SAY_EVERY:
            said_at = time.monotonic()
            current_task().progress(stop, table.num_rows)


def _pick(features: pa.Table, indices: Sequence[int]) -> pa.Table:
    first, count = indices[0], len(indices)
    if indices[-1] - first + 1 == count:
        return features.slice(first, count)  # copies nothing
    return features.take(pa.array(indices, pa.int64()))
