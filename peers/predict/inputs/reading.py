"""Read one chunk of an input: exactly its rows, with a reason for each that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError
from peers.predict.inputs import text
from peers.predict.inputs.files import unchanged
from peers.predict.inputs.records import records
from peers.predict.spec import Chunk, InputRef

_MOST_KEPT: Final = 128 << 20
"""Bytes of a decoded row group that a worker keeps for the chunks that follow in it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A chunk's rows; `bad`: index in the chunk → why it cannot be read, its values are null."""

    table: pa.Table
    bad: dict[int, str]


def read(source: InputRef, chunk: Chunk, columns: Sequence[str]) -> Rows:
    """The chunk's rows, of these columns in this order.

    Raises InputChanged when the file is not what was planned, InputError when it cannot be read.
    """
    missing = [name for name in columns if name not in dict(source.columns)]
    if missing:
        raise InputError(
            f"the input {source.path} has no column {', '.join(missing)}",
            f"It has {', '.join(name for name, _ in source.columns)}.",
        )
    with unchanged(source) as stream:
        if source.format == "parquet":
            return Rows(_parquet(source, stream, chunk, tuple(columns)), {})
        return _text(source, stream, chunk, columns)


def _text(source: InputRef, stream: BinaryIO, chunk: Chunk, columns: Sequence[str]) -> Rows:
    assert source.format != "parquet"
    stream.seek(chunk.where["offset"])
    raw = stream.read(chunk.where["bytes"])
    types = dict(source.columns)
    spans = list(records(io.BytesIO(raw), source.format, len(types) or None))
    if len(spans) != chunk.rows:
        raise InputError(f"{source.path} has {len(spans)} rows where {chunk.rows} were planned")
    table, bad = text.table_of(
        raw, spans, source.format, list(types), [(name, types[name]) for name in columns]
    )
    return Rows(table, bad)


def _parquet(
    source: InputRef, stream: BinaryIO, chunk: Chunk, columns: tuple[str, ...]
) -> pa.Table:
    group, skip = chunk.where["group"], chunk.where["skip"]
    try:
        file = pq.ParquetFile(stream)
        if file.metadata.row_group(group).total_byte_size <= _MOST_KEPT:
            return _row_group(source, group, columns).slice(skip, chunk.rows).select(columns)
        return _streamed(file, chunk, columns).select(columns)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.path}, row group {group}, cannot be read: {error}") from error


@lru_cache(maxsize=1)
def _row_group(source: InputRef, group: int, columns: tuple[str, ...]) -> pa.Table:
    """Neighbouring chunks go to the same worker again and again."""
    with pq.ParquetFile(source.path) as file:
        return file.read_row_group(group, columns=list(columns), use_threads=False).combine_chunks()


def _streamed(file: pq.ParquetFile, chunk: Chunk, columns: tuple[str, ...]) -> pa.Table:
    """The rows of a row group that is too large to keep."""
    skip, wanted = chunk.where["skip"], chunk.rows
    batches: list[pa.RecordBatch] = []
    for batch in file.iter_batches(
        batch_size=chunk.rows, row_groups=[chunk.where["group"]], columns=list(columns),
        use_threads=False,
    ):  # fmt: skip
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        part = batch.slice(skip, wanted)
        batches.append(part)
        skip, wanted = 0, wanted - part.num_rows
        if not wanted:
            break
    return pa.Table.from_batches(batches)
