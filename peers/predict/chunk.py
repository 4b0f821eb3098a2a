"""A chunk of the input: predict its rows batch by batch, write its part, hand over the culprits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import pyarrow as pa

from peers import Reject, current_task
from peers.predict import inputs, outputs, suspects
from peers.predict.errors import InputChanged
from peers.predict.fitness import plain_id, unfit_rows
from peers.predict.isolate import Isolated, isolate, require_answers
from peers.predict.journal import Journal
from peers.predict.spec import Chunk, Manifest

if TYPE_CHECKING:
    from peers.predict.models import Predictions

Predict: TypeAlias = Callable[[pa.Table], "Awaitable[Predictions]"]
_SAY_EVERY: Final = 0.5

HandOver: TypeAlias = Callable[[Sequence[suspects.Doubt]], Awaitable[list[suspects.Suspect]]]


class Throttled:
    """Says how far a chunk is, but not for every batch: each time is a statement of its peer."""

    def __init__(self, say: Callable[[int], None]) -> None:
        self._say = say
        self._said_at = time.monotonic()

    def __call__(self, done: int) -> None:
        """So many rows are done."""
        if time.monotonic() - self._said_at > _SAY_EVERY:
            self._say(done)
            self._said_at = time.monotonic()


@dataclass(slots=True)
class Done:
    """What came out of the model: for these rows (index in the chunk) these predictions."""

    indices: list[int] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)
    batches: int = 0
    seconds: float = 0.0

    def add(self, batch: Isolated) -> None:
        """Takes in a batch."""
        for indices, predictions in batch.good:
            self.indices += indices
            self.predictions.append(predictions)
        self.doubtful |= batch.bad.keys()
        self.batches += batch.calls

    def joined(self) -> Predictions:
        """All predictions, in the order of `indices`."""
        if self.predictions and all(isinstance(one, np.ndarray) for one in self.predictions):
            return np.concatenate(self.predictions)
        return [value for batch in self.predictions for value in batch]


async def run_chunk(
    manifest: Manifest, chunk: Chunk, predict: Predict, hand_over: HandOver
) -> dict[str, object]:
    """Predict a chunk and write its part; the task's result.

    Rows that cannot be predicted, and those of a batch that an earlier attempt died of, are left to
    tasks of their own. Raises Reject for what no further attempt mends, and what keeps this attempt
    from ending.
    """
    columns = list(dict.fromkeys([*manifest.features, *_id_columns(manifest)]))
    try:
        rows = inputs.read(manifest.input, chunk, columns)
    except InputChanged as error:
        raise Reject(str(error)) from error
    ids = rows.table.column(manifest.id_column) if manifest.id_column else None
    journal = Journal(manifest.folder, chunk.number)
    finished = outputs.rows_of_part(manifest.folder, chunk)
    if finished is None:
        done = Done(doubtful=set(unfit_rows(rows, manifest)))
        await _run_batches(manifest, rows.table, predict, journal, done)
    else:  # by somebody whose outcome was never recorded, or is no longer
        done = Done(finished, doubtful=set(range(chunk.rows)).difference(finished))
    suspected = await _hand_over(chunk, ids, done.doubtful, hand_over)
    note = suspects.as_note(suspected)
    if finished is None:
        _write_part(manifest, chunk, ids, done, note)
    else:
        outputs.annotate_part(manifest.folder, chunk.number, note)
    journal.close()
    return {
        "rows": chunk.rows, "predicted": len(done.indices), "suspects": len(suspected),
        "batches": done.batches, "model_seconds": round(done.seconds, 6),
    }  # fmt: skip


async def _run_batches(
    manifest: Manifest, table: pa.Table, predict: Predict, journal: Journal, done: Done
) -> None:
    features = table.select(manifest.features)

    async def call(indices: Sequence[int]) -> Predictions:
        return await predict(_pick(features, indices))

    async def on_failure(error: Exception) -> None:
        await require_answers(fit, call, error)

    fit = [index for index in range(table.num_rows) if index not in done.doubtful]
    killers = journal.reopen(died=current_task().attempt > 1)
    tell = Throttled(lambda done: current_task().progress(done, table.num_rows))
    for start in range(0, table.num_rows, manifest.batch_size):
        stop = min(start + manifest.batch_size, table.num_rows)
        indices = [index for index in range(start, stop) if index not in done.doubtful]
        if start in killers:
            done.doubtful.update(indices)
        elif indices:
            journal.enter(start)
            began = time.monotonic()
            try:
                done.add(await isolate(indices, call, on_failure))
            finally:  # what is raised is not the end of the process
                journal.leave()
            done.seconds += time.monotonic() - began
        tell(stop)


def _pick(features: pa.Table, indices: Sequence[int]) -> pa.Table:
    first, count = indices[0], len(indices)
    if indices[-1] - first + 1 == count:
        return features.slice(first, count)  # copies nothing
    return features.take(pa.array(indices, pa.int64()))


def _write_part(
    manifest: Manifest, chunk: Chunk, ids: pa.ChunkedArray | None, done: Done, note: str
) -> None:
    kept = pa.array(done.indices, pa.int64())
    outputs.write_part(
        manifest.folder,
        chunk.number,
        [chunk.first + index for index in done.indices],
        None if ids is None else ids.take(kept).combine_chunks(),
        done.joined(),
        note,
    )


async def _hand_over(
    chunk: Chunk, ids: pa.ChunkedArray | None, doubtful: Iterable[int], hand_over: HandOver
) -> list[suspects.Suspect]:
    doubts = [
        suspects.Doubt(chunk.first + index, None if ids is None else plain_id(ids[index].as_py()))
        for index in sorted(doubtful)
    ]
    return await hand_over(doubts) if doubts else []


def _id_columns(manifest: Manifest) -> list[str]:
    return [manifest.id_column] if manifest.id_column else []
