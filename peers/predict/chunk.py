"""A chunk of the input: predict its rows batch by batch, write its part, hand over the culprits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import pyarrow as pa

from peers import Reject, current_task
from peers.predict import inputs, outputs
from peers.predict.errors import InputChanged, OutputConflict
from peers.predict.fitness import plain_id, unfit_rows
from peers.predict.isolate import Isolated, isolate, require_answers
from peers.predict.journal import Journal
from peers.predict.spec import Chunk, Manifest
from peers.predict.suspects import Alone, Doubt

if TYPE_CHECKING:
    from peers.predict.models import Predictions

Predict: TypeAlias = Callable[[pa.Table], "Awaitable[Predictions]"]
HandOver: TypeAlias = Callable[[str, Sequence[Doubt]], Awaitable[Alone]]

_WITNESSES: Final = 4
"""Rows that were predicted, for those that stand alone: they show whether a model works at all."""
_SAY_EVERY: Final = 0.5
"""Seconds: each time is a statement of the peer."""


@dataclass(slots=True)
class Done:
    """What came out of the model, by the rows' indices in the chunk.

    `doubtful` rows are to be tried alone; of those in `problems` it is known why they have no
    prediction.
    """

    indices: list[int] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)
    problems: dict[int, str] = field(default_factory=dict)
    batches: int = 0

    def add(self, batch: Isolated) -> None:
        """Takes in a batch."""
        for indices, predictions in batch.good:
            self.indices += indices
            self.predictions.append(predictions)
        self.doubtful |= batch.bad.keys()
        self.batches += batch.calls

    def joined(self) -> Predictions:
        """All predictions, in the order of `indices`.

        What cannot stand beside the others is left out: that is a problem of its row.
        """
        arrays = [one for one in self.predictions if isinstance(one, np.ndarray)]
        kinds = {(one.dtype.kind, one.shape[1:]) for one in arrays}
        if len(arrays) == len(self.predictions) and len(kinds) == 1:
            return np.concatenate(arrays)
        joined = [value for batch in self.predictions for value in batch]
        misfits = outputs.misfits(joined)
        self.problems |= {self.indices[place]: why for place, why in misfits.items()}
        self.indices = [one for place, one in enumerate(self.indices) if place not in misfits]
        return [one for place, one in enumerate(joined) if place not in misfits]


async def run_chunk(
    manifest: Manifest, chunk: Chunk, predict: Predict, hand_over: HandOver
) -> dict[str, object]:
    """Predict a chunk and write its part; the task's result.

    Rows that cannot be predicted, and those of a batch that an earlier attempt died of, are left to
    tasks of their own. Raises Reject for what no further attempt mends, and what keeps this attempt
    from ending.
    """
    finished = outputs.rows_of_part(manifest.folder, chunk)
    if finished is not None:  # by somebody whose outcome was never recorded, or is no longer
        alone = Alone.of_part(manifest.folder, chunk.number)
        if alone is not None:
            doubts = [Doubt(each.row, each.id, each.problem) for each in alone.suspects]
            alone = await hand_over(alone.values, doubts)
            outputs.annotate_part(manifest.folder, chunk.number, alone.as_note())
        return _result(chunk, Done(finished), alone)
    rows = _read(manifest, chunk)
    done = Done(problems=unfit_rows(rows, manifest))
    journal = Journal(manifest.folder, chunk.number)
    await _run_batches(manifest, rows.table, predict, journal, done)
    try:
        predictions = done.joined()
        alone = await _hand_over(manifest, chunk, rows.table, done, predictions, hand_over)
        _write_part(manifest, chunk, rows.table, done, predictions, alone)
    except OutputConflict as error:
        raise Reject(str(error)) from error
    journal.close()
    return _result(chunk, done, alone)


def _result(chunk: Chunk, done: Done, alone: Alone | None) -> dict[str, object]:
    return {
        "rows": chunk.rows, "predicted": len(done.indices),
        "suspects": 0 if alone is None else len(alone.suspects),
        "batches": done.batches,
    }  # fmt: skip


def _read(manifest: Manifest, chunk: Chunk) -> inputs.Rows:
    ids = [manifest.id_column] if manifest.id_column else []
    try:
        return inputs.read(manifest.input, chunk, list(dict.fromkeys([*manifest.features, *ids])))
    except InputChanged as error:
        raise Reject(str(error)) from error


async def _run_batches(
    manifest: Manifest, table: pa.Table, predict: Predict, journal: Journal, done: Done
) -> None:
    features = table.select(manifest.features)
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


async def _hand_over(
    manifest: Manifest, chunk: Chunk, table: pa.Table, done: Done, predictions: Predictions,
    hand_over: HandOver,
) -> Alone | None:  # fmt: skip
    """Tasks for the rows that have no prediction; what they need is in a file of its own."""
    indices = sorted({*done.doubtful, *done.problems})
    if not indices:
        return None
    ids = table.column(manifest.id_column) if manifest.id_column else None
    doubts = [
        Doubt(
            chunk.first + index,
            None if ids is None else plain_id(ids[index].as_py()),
            done.problems.get(index),
        )
        for index in indices
    ]
    witnesses = done.indices[:: max(1, -(-len(done.indices) // _WITNESSES))]
    values = outputs.Values(
        table.take(pa.array(indices, pa.int64())),
        table.take(pa.array(witnesses, pa.int64())),
        outputs.array_of(predictions).type if len(predictions) else None,
    )
    rows = [chunk.first + index for index in indices]
    file = outputs.write_values(manifest.folder, chunk.number, rows, values)
    return await hand_over(file, doubts)


def _write_part(
    manifest: Manifest, chunk: Chunk, table: pa.Table, done: Done, predictions: Predictions,
    alone: Alone | None,
) -> None:  # fmt: skip
    ids = table.column(manifest.id_column) if manifest.id_column else None
    outputs.write_part(
        manifest.folder,
        chunk.number,
        [chunk.first + index for index in done.indices],
        None if ids is None else ids.take(pa.array(done.indices, pa.int64())).combine_chunks(),
        predictions,
        "" if alone is None else alone.as_note(),
    )
