"""A chunk of the input: predict its rows batch by batch, write its part, hand over the culprits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import pyarrow as pa

from peers import Reject
from peers.predict import inputs, outputs
from peers.predict.errors import InputChanged, OutputConflict
from peers.predict.spec import Chunk, Manifest
from peers.predict.tasks.batches import Predict, run_batches
from peers.predict.tasks.done import Done
from peers.predict.tasks.isolated_rows import Alone, Doubt
from peers.predict.tasks.journal import Journal
from peers.predict.tasks.row_checks import plain_id, unfit_rows

HandOver: TypeAlias = Callable[[str, Sequence[Doubt]], Awaitable[Alone]]

_WITNESSES: Final = 4
"""Rows that were predicted, for those that stand alone: they show whether a model works at all."""


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
        return _result(chunk, Done(indices=finished), alone)
    rows = _read(manifest, chunk)
    done = Done(problems=unfit_rows(rows, manifest))
    journal = Journal(manifest.folder, chunk.number)
    await run_batches(manifest, rows.table, predict, journal, done)
    try:
        predictions = done.fitted(manifest)
        alone = await _hand_over(manifest, chunk, rows.table, done, hand_over)
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
    beside = [*([manifest.id_column] if manifest.id_column else []), *manifest.carry]
    try:
        names = list(dict.fromkeys([*manifest.features, *beside]))
        return inputs.read(manifest.input, chunk, names)
    except InputChanged as error:
        raise Reject(str(error)) from error


async def _hand_over(
    manifest: Manifest, chunk: Chunk, table: pa.Table, done: Done, hand_over: HandOver
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
    )
    rows = [chunk.first + index for index in indices]
    file = outputs.write_values(manifest.folder, chunk.number, rows, values)
    return await hand_over(file, doubts)


def _write_part(
    manifest: Manifest, chunk: Chunk, table: pa.Table, done: Done, predictions: pa.Table,
    alone: Alone | None,
) -> None:  # fmt: skip
    if len(done.indices) != table.num_rows:
        table = table.take(pa.array(done.indices))
    kept = outputs.kept_columns(manifest, chunk.first + done.indices, table)
    note = "" if alone is None else alone.as_note()
    outputs.write_part(manifest, chunk.number, kept, predictions, note)
