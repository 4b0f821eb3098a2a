"""Read one chunk of an input: exactly its rows, with a reason for each that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from peers.predict.column_metadata import PARTITION
from peers.predict.errors import InputError
from peers.predict.inputs import categories
from peers.predict.inputs.casting import Problems, cast
from peers.predict.inputs.files import unchanged
from peers.predict.inputs.forward import ForwardReader
from peers.predict.spec import Chunk, DataFile, InputRef

PROBLEM: Final = "peers.problem"
"""The column of a snapshot that says why a row could not be read.

Values that could not be read are null. They are not missing values of the input.
"""


@dataclass(frozen=True, slots=True)
class Rows:
    """A chunk's rows; `bad`: why rows cannot be read, by their index in the chunk.

    Values that cannot be read are null.
    """

    table: pa.Table
    bad: dict[int, str] = field(default_factory=dict)


def read(source: InputRef, chunk: Chunk, columns: Sequence[str]) -> Rows:
    """Return these columns of the chunk, in this order, in the types of the input's schema.

    Raises InputChanged if a file has changed since the plan, and InputError if it is unreadable.
    """
    names = [name for name in source.schema.names if name != PROBLEM]
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"the input has no column {', '.join(missing)}", f"It has {', '.join(names)}."
        )
    wanted = [*columns, PROBLEM] if PROBLEM in source.schema.names else list(columns)
    fields = [source.schema.field(name) for name in wanted]
    schema = pa.schema(fields, metadata=source.schema.metadata)
    pieces = [
        _piece(source, file, first, count, schema) for file, first, count in _ranges(source, chunk)
    ]
    table = pa.concat_tables([piece.table for piece in pieces])
    bad: Problems = {}
    before = 0
    for piece in pieces:
        bad |= {before + index: why for index, why in piece.bad.items()}
        before += piece.table.num_rows
    if PROBLEM in wanted:
        bad |= _problems(table.column(PROBLEM))
        table = table.select(list(columns))
    return Rows(table, bad)


def readable_counts(file: pq.ParquetFile, name: str) -> Iterator[tuple[int, int]]:
    """Yield the rows and nulls of pieces of a column, without the rows that could not be read."""
    has_problems = PROBLEM in file.schema_arrow.names
    names = [name, PROBLEM] if has_problems else [name]
    for batch in file.iter_batches(columns=names, use_threads=False):
        values = batch.column(name)
        if has_problems and batch.column(PROBLEM).null_count < batch.num_rows:
            values = values.filter(batch.column(PROBLEM).is_null())
        yield len(values), values.null_count


def _ranges(source: InputRef, chunk: Chunk) -> Iterator[tuple[DataFile, int, int]]:
    """Yield the places of the chunk's rows: (file, first row in it, number of rows)."""
    begin, end = chunk.first, chunk.first + chunk.rows
    for file in source.files:
        first, last = max(begin, 0), min(end, file.rows)
        if first < last:
            yield file, first, last - first
        begin, end = begin - file.rows, end - file.rows


def _piece(source: InputRef, file: DataFile, first: int, count: int, schema: pa.Schema) -> Rows:
    inside = tuple(one.name for one in schema if PARTITION not in (one.metadata or {}))
    with unchanged(file):
        try:
            reader = _reader(file, inside)
            found = reader.rows(first, count) if reader.columns else None
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"rows {first} to {first + count - 1} of {file.path} cannot be read: {error}"
            ) from error
    bad: Problems = {}
    arrays = []
    for one in schema:
        if found is not None and one.name in reader.columns:
            array, problems = _conformed(source, found.column(one.name), one)
            bad = problems | bad
        else:
            array = _constant(source, one, dict(file.partition).get(one.name), count)
        arrays.append(array)
    return Rows(pa.Table.from_arrays(arrays, schema=schema), bad)


def _conformed(
    source: InputRef, column: pa.ChunkedArray, wanted: pa.Field
) -> tuple[pa.ChunkedArray, Problems]:
    """Return the column in its final type, and the values that do not fit it."""
    if kinds.is_dictionary(wanted.type):
        assert source.categories is not None
        known = categories.kept(source.categories)[wanted.name]
        return categories.encoded(column, known, wanted.type), {}
    if column.type == wanted.type:
        return column, {}
    return cast(column, wanted.name, wanted.type)


def _constant(source: InputRef, one: pa.Field, value: str | int | None, count: int) -> pa.Array:
    """Return a column that the file lacks: the value in its folder's name, or nulls."""
    if kinds.is_dictionary(one.type):
        values = pa.array([value], one.type.value_type).take(pa.array([0] * count, pa.int32()))
        return _conformed(source, pa.chunked_array([values]), one)[0]
    if value is None:
        return pa.nulls(count, one.type)
    return pa.array([value] * count).cast(one.type)


@lru_cache(maxsize=1)
def _reader(file: DataFile, columns: tuple[str, ...]) -> ForwardReader:
    """Return the open reader of a file: a worker often gets neighbouring chunks."""
    return ForwardReader(file.path, columns)


def _problems(column: pa.ChunkedArray) -> Problems:
    if column.null_count == len(column):
        return {}
    return {index: why for index, why in enumerate(column.to_pylist()) if why is not None}
