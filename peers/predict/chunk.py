"""A chunk of the input: predict its rows batch by batch, write its part, hand over the culprits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from peers import Reject, Retry, current_task
from peers.predict import inputs, outputs, suspects
from peers.predict.errors import InputChanged, ModelError
from peers.predict.fitness import plain_id, unfit_rows
from peers.predict.journal import Journal
from peers.predict.spec import Chunk, Manifest

if TYPE_CHECKING:
    from peers.predict.models import Predictions

Predict: TypeAlias = Callable[[pa.Table], "Awaitable[Predictions]"]
HandOver: TypeAlias = Callable[[Sequence[suspects.Doubt]], Awaitable[list[suspects.Suspect]]]


@dataclass(slots=True)
class Done:
    """What came out of the model: for these rows (index in the chunk) these predictions."""

    indices: list[int] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)
    batches: int = 0
    seconds: float = 0.0

    def add(self, indices: Sequence[int], predictions: Predictions) -> None:
        """Takes in a batch; where an exception stands for a row, that row is doubtful."""
        if isinstance(predictions, np.ndarray):
            self.indices += indices
            self.predictions.append(predictions)
            return
        good = [
            (index, value)
            for index, value in zip(indices, predictions, strict=True)
            if not isinstance(value, BaseException)
        ]
        self.doubtful.update(set(indices) - {index for index, _ in good})
        self.indices += [index for index, _ in good]
        self.predictions.append([value for _, value in good])

    def joined(self) -> Predictions:
        """All predictions, in the order of `indices`."""
        if self.predictions and all(isinstance(one, np.ndarray) for one in self.predictions):
            return np.concatenate(self.predictions)
        return [value for batch in self.predictions for value in batch]


async def run_chunk(
    manifest: Manifest, chunk: Chunk, predict: Predict, hand_over: HandOver
) -> dict[str, object]:
    """Predict a chunk and write its part; the task's result.

    A batch that raises, or that an earlier attempt died of, is left to tasks of its rows. Raises
    Reject for what no further attempt mends, and what keeps this attempt from ending.
    """
    columns = list(dict.fromkeys([*manifest.features, *_id_columns(manifest)]))
    try:
        rows = inputs.read(manifest.input, chunk, columns)
    except InputChanged as error:
        raise Reject(str(error)) from error
    done = Done(doubtful=set(unfit_rows(rows, manifest)))
    journal = Journal(manifest.folder, chunk.number)
    await _run_batches(manifest, rows.table, predict, journal, done)
    ids = rows.table.column(manifest.id_column) if manifest.id_column else None
    suspected = await _hand_over(chunk, ids, done.doubtful, hand_over)
    suspects.save(manifest.folder, chunk.number, suspected)
    kept = pa.array(done.indices, pa.int64())
    outputs.write_part(
        manifest.folder,
        chunk.number,
        [chunk.first + index for index in done.indices],
        None if ids is None else ids.take(kept).combine_chunks(),
        done.joined(),
    )
    journal.close()
    return {
        "rows": chunk.rows, "predicted": len(done.indices), "suspects": len(suspected),
        "batches": done.batches, "model_seconds": round(done.seconds, 6),
    }  # fmt: skip


async def _run_batches(
    manifest: Manifest, table: pa.Table, predict: Predict, journal: Journal, done: Done
) -> None:
    features = table.select(manifest.features)
    killers = journal.reopen() if current_task().attempt > 1 else frozenset()
    for start in range(0, table.num_rows, manifest.batch_size):
        stop = min(start + manifest.batch_size, table.num_rows)
        indices = [index for index in range(start, stop) if index not in done.doubtful]
        if start in killers:
            done.doubtful.update(indices)
        elif indices:
            batch = _pick(features, indices, whole=(start, stop))
            journal.enter(start)
            began = time.monotonic()
            try:
                done.add(indices, await predict(batch))
            except (ModelError, Reject, Retry):
                journal.leave()
                raise
            except Exception:  # noqa: BLE001  # whose fault it is, the tasks of the rows will tell
                done.doubtful.update(indices)
            journal.leave()
            done.seconds += time.monotonic() - began
            done.batches += 1
        current_task().progress(stop, table.num_rows)


def _pick(features: pa.Table, indices: list[int], whole: tuple[int, int]) -> pa.Table:
    start, stop = whole
    if len(indices) == stop - start:
        return features.slice(start, stop - start)  # copies nothing
    return features.take(pa.array(indices, pa.int64()))


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
