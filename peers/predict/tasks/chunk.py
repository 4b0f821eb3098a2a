"""Predict a chunk of the input batch by batch, write its part, and isolate the failing rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import pyarrow as pa

from peers import Reject
from peers.predict import inputs, outputs
from peers.predict.errors import InputChanged, OutputConflict
from peers.predict.spec import Chunk, Manifest
from peers.predict.tasks.batch_marker import BatchMarker
from peers.predict.tasks.batches import Predict, run_batches
from peers.predict.tasks.chunk_predictions import ChunkPredictions
from peers.predict.tasks.isolated_rows import IsolatedRows, RowToIsolate
from peers.predict.tasks.row_checks import invalid_rows, json_id

SubmitIsolated: TypeAlias = Callable[[str, Sequence[RowToIsolate]], Awaitable[IsolatedRows]]

_KNOWN_GOOD_ROWS: Final = 4
"""Predicted rows that are kept beside the isolated ones: they show whether a model works at all."""


async def run_chunk(
    manifest: Manifest, chunk: Chunk, predict: Predict, submit_isolated: SubmitIsolated
) -> dict[str, object]:
    """Predict a chunk and write its part; return the task's result.

    Rows that cannot be predicted, and the rows of a batch that killed an earlier attempt, get tasks
    of their own. Raises Reject for an error that no further attempt can fix, and any exception that
    ends this attempt.
    """
    finished = outputs.rows_of_part(manifest.folder, chunk)
    if finished is not None:  # by an earlier attempt whose outcome was not recorded, or is gone
        isolated = IsolatedRows.of_part(manifest.folder, chunk.number)
        if isolated is not None:
            rows = [RowToIsolate(row.row, row.id, row.problem) for row in isolated.rows]
            isolated = await submit_isolated(isolated.values, rows)
            outputs.annotate_part(manifest.folder, chunk.number, isolated.to_json())
        return _result(chunk, ChunkPredictions(indices=finished), isolated)
    read = _read(manifest, chunk)
    found = ChunkPredictions(problems=invalid_rows(read, manifest))
    marker = BatchMarker(manifest.folder, chunk.number)
    await run_batches(manifest, read.table, predict, marker, found)
    try:
        predictions = found.fit(manifest)
        isolated = await _isolate(manifest, chunk, read.table, found, submit_isolated)
        _write_part(manifest, chunk, read.table, found, predictions, isolated)
    except OutputConflict as error:
        raise Reject(str(error)) from error
    marker.remove()
    return _result(chunk, found, isolated)


def _result(
    chunk: Chunk, found: ChunkPredictions, isolated: IsolatedRows | None
) -> dict[str, object]:
    return {
        "rows": chunk.rows, "predicted": len(found.indices),
        "isolated": 0 if isolated is None else len(isolated.rows),
        "batches": found.batches,
    }  # fmt: skip


def _read(manifest: Manifest, chunk: Chunk) -> inputs.Rows:
    others = [*([manifest.id_column] if manifest.id_column else []), *manifest.carry]
    try:
        names = list(dict.fromkeys([*manifest.features, *others]))
        return inputs.read(manifest.input, chunk, names)
    except InputChanged as error:
        raise Reject(str(error)) from error


async def _isolate(
    manifest: Manifest, chunk: Chunk, table: pa.Table, found: ChunkPredictions,
    submit_isolated: SubmitIsolated,
) -> IsolatedRows | None:  # fmt: skip
    """Submit tasks for the rows without a prediction, and write the values they need to a file."""
    indices = sorted({*found.to_isolate, *found.problems})
    if not indices:
        return None
    ids = table.column(manifest.id_column) if manifest.id_column else None
    rows = [
        RowToIsolate(
            chunk.first + index,
            None if ids is None else json_id(ids[index].as_py()),
            found.problems.get(index),
        )
        for index in indices
    ]
    known_good = found.indices[:: max(1, -(-len(found.indices) // _KNOWN_GOOD_ROWS))]
    values = outputs.IsolatedValues(
        table.take(pa.array(indices, pa.int64())),
        table.take(pa.array(known_good, pa.int64())),
    )
    numbers = [chunk.first + index for index in indices]
    file = outputs.write_isolated_values(manifest.folder, chunk.number, numbers, values)
    return await submit_isolated(file, rows)


def _write_part(
    manifest: Manifest, chunk: Chunk, table: pa.Table, found: ChunkPredictions,
    predictions: pa.Table, isolated: IsolatedRows | None,
) -> None:  # fmt: skip
    if len(found.indices) != table.num_rows:
        table = table.take(pa.array(found.indices))
    kept = outputs.kept_columns(manifest, chunk.first + found.indices, table)
    note = "" if isolated is None else isolated.to_json()
    outputs.write_part(manifest, chunk.number, kept, predictions, note)
