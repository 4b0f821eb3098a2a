"""The part that a chunk leaves: row numbers, ids and predictions, as Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import OutputConflict
from peers.predict.outputs.durable import replaced
from peers.predict.spec import Chunk

ROW: Final = "row"
ID: Final = "id"
PREDICTION: Final = "prediction"
_NOTE: Final = b"peers.note"
_MATRIX: Final = 2
_NOTHING: Final = "null"


def part_path(folder: Path, number: int) -> Path:
    """Where the part of a chunk lies."""
    return folder / f"chunk-{number:06d}.parquet"


def write_part(
    folder: Path,
    number: int,
    rows: Sequence[int],
    ids: pa.Array | None,
    predictions: Any,
    note: str = "",
) -> Path:
    """Writes a chunk's part and, in the same file, a note about the rows that are not in it.

    So that attempts which overlap leave what one of them found, whole. predictions: an array
    (rows, …) or a list, one for each row. Raises OutputError.
    """
    columns: dict[str, Any] = {ROW: pa.array(rows, pa.int64())}
    if ids is not None:
        columns[ID] = ids
    columns[PREDICTION] = array_of(predictions)
    return _write(part_path(folder, number), pa.table(columns), note)


def annotate_part(folder: Path, number: int, note: str) -> None:
    """Another note for a finished part. Raises OutputError."""
    if note_of_part(folder, number) != note:
        _write(part_path(folder, number), read_part(folder, number), note)


def _write(path: Path, table: pa.Table, note: str) -> Path:
    try:
        with replaced(path) as temporary:
            noted = table.replace_schema_metadata({_NOTE: note})
            pq.write_table(noted, temporary, write_page_checksum=True)
    except pa.ArrowException as error:
        raise OutputConflict(
            f"{path} cannot hold the model's predictions: {error}",
            "A model must return numbers, texts, lists or dicts with something in them.",
        ) from error
    return path


def read_part(folder: Path, number: int) -> pa.Table:
    """A chunk's part. Raises OutputConflict when it is not there."""
    path = part_path(folder, number)
    try:
        return pq.read_table(
            path, partitioning=None, use_threads=False, page_checksum_verification=True
        )
    except (OSError, pa.ArrowException) as error:
        raise OutputConflict(
            f"the finished part {path} is missing or damaged: {error}",
            "The same command makes it anew.",
        ) from error


def rows_of_part(folder: Path, chunk: Chunk) -> list[int] | None:
    """Which rows of the chunk, by their index, are in its finished part; None: there is none."""
    try:
        part = read_part(folder, chunk.number)
    except OutputConflict:  # not there, or damaged: it is made anew
        return None
    rows = part.column(ROW).to_numpy() - chunk.first
    fits = bool((np.diff(rows) > 0).all()) and (
        not len(rows) or (rows[0] >= 0 and rows[-1] < chunk.rows)
    )
    return rows.tolist() if fits else None


def is_whole(folder: Path, number: int) -> bool:
    """Whether a chunk's part is there, and what was written."""
    try:
        read_part(folder, number)
    except OutputConflict:
        return False
    return True


def schema_of(folder: Path, number: int) -> pa.Schema:
    """The columns of a part. Raises OutputConflict when it is not there."""
    return _schema(folder, number).remove_metadata()


def note_of_part(folder: Path, number: int) -> str:
    """The note that it was written with. Raises OutputConflict when it is not there."""
    found: bytes = (_schema(folder, number).metadata or {}).get(_NOTE, b"")
    return found.decode()


def _schema(folder: Path, number: int) -> pa.Schema:
    try:
        return pq.read_schema(part_path(folder, number))
    except (OSError, pa.ArrowException):
        return read_part(folder, number).schema


def check_predictions(predictions: Any) -> None:
    """Raises OutputConflict if they could not be written."""
    table = pa.table({PREDICTION: array_of(predictions)})
    try:
        pq.write_table(table, pa.BufferOutputStream())
    except pa.ArrowException as error:
        raise OutputConflict(
            f"the model's predictions, of type {table.schema.types[0]}, cannot be written: {error}",
            "A model must return numbers, texts, lists or dicts with something in them.",
        ) from error


def misfits(predictions: Sequence[Any]) -> dict[int, str]:
    """Which of a list of predictions are not of the type that most of them have, and how so."""
    try:
        array_of(predictions)
    except OutputConflict:
        kinds = [_kind(one) for one in predictions]
        example = dict(zip(kinds, predictions, strict=True))
        fitting: list[str] = []
        for kind, _ in Counter(kinds).most_common():
            if _fit_together([*(example[one] for one in fitting), example[kind]]):
                fitting.append(kind)
        usual = next((kind for kind in fitting if kind != _NOTHING), _NOTHING)
        return {
            index: f"its prediction is a {kind}, where those of its chunk are {usual}"
            for index, kind in enumerate(kinds)
            if kind not in fitting
        }
    return {}


def _fit_together(predictions: list[Any]) -> bool:
    try:
        array_of(predictions)
    except OutputConflict:
        return False
    return True


def _kind(prediction: Any) -> str:
    try:
        return str(array_of([prediction]).type)
    except OutputConflict:
        return f"{type(prediction).__name__} that cannot be written"


def array_of(predictions: Any) -> pa.Array:
    """Predictions as a column. Raises OutputConflict for what has no type in common."""
    try:
        if isinstance(predictions, np.ndarray) and predictions.ndim == _MATRIX:
            width = predictions.shape[1]
            values = pa.array(np.ascontiguousarray(predictions).reshape(-1))
            offsets = np.arange(0, len(values) + 1, width, dtype=np.int32)
            return pa.ListArray.from_arrays(offsets, values) if width else _listed(predictions)
        if isinstance(predictions, np.ndarray) and predictions.ndim == 1:
            return pa.array(predictions)
        return _listed(predictions)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise OutputConflict(
            f"the model's predictions have no type in common: {error}",
            "A model must return values of one type: numbers, texts, lists or dicts.",
        ) from error


def _listed(predictions: Any) -> pa.Array:
    plain = predictions.tolist() if isinstance(predictions, np.ndarray) else predictions
    return pa.array([value.tolist() if hasattr(value, "tolist") else value for value in plain])
