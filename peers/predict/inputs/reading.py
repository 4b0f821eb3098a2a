"""Read one chunk of an input: exactly its rows, with a reason for each that cannot be read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

import pyarrow as pa

from peers.predict.errors import InputError
from peers.predict.inputs import text
from peers.predict.inputs.files import unchanged
from peers.predict.inputs.forward import ForwardReader
from peers.predict.inputs.records import records
from peers.predict.spec import Chunk, InputRef


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
            return Rows(_parquet(source, chunk, tuple(columns)), {})
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


def _parquet(source: InputRef, chunk: Chunk, columns: tuple[str, ...]) -> pa.Table:
    try:
        return _reader(source, columns).rows(chunk.first, chunk.rows)
    except (pa.ArrowException, OSError) as error:
        last = chunk.first + chunk.rows - 1
        raise InputError(
            f"rows {chunk.first} to {last} of {source.path} cannot be read: {error}"
        ) from error


@lru_cache(maxsize=1)
def _reader(source: InputRef, columns: tuple[str, ...]) -> ForwardReader:
    """Neighbouring chunks go to the same worker again and again."""
    return ForwardReader(source.path, columns)
