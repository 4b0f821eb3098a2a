"""A first pass over an input: what it is, how many rows it has, and where its chunks lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError
from peers.predict.inputs import text
from peers.predict.inputs.files import digest_of, format_of, opened
from peers.predict.inputs.records import BOM, Span, TextFormat, records
from peers.predict.spec import Chunk, InputRef

_EMPTY_HINT: Final = "There is nothing to predict."


def plan(
    path: Path, chunk_rows: Callable[[int], int], id_column: str | None = None
) -> tuple[InputRef, list[Chunk]]:
    """The input's reference and its chunks of `chunk_rows(rows)` rows.

    Reads the file twice or three times, a piece at a time. Raises InputError.
    """
    format_ = format_of(path)
    with opened(path) as stream:
        before = os.fstat(stream.fileno())
        if format_ == "parquet":
            columns, rows = _parquet(path)
            chunks = list(_parquet_chunks(rows, chunk_rows(rows)))
        else:
            names, start = _text_start(stream, path, format_)
            width = len(names) or None
            rows = sum(1 for _ in records(stream, format_, width, start))
            # every key of JSON Lines is a column, also one that comes late
            most = text.SAMPLE if format_ == "csv" else None
            with opened(path) as other:
                sample = islice(records(other, format_, width, start), most)
                columns = text.sampled(stream, sample, format_, names, id_column)
            spans = records(stream, format_, width, start)
            chunks = list(_text_chunks(spans, chunk_rows(rows)))
    rows = sum(chunk.rows for chunk in chunks)
    if not rows:
        raise InputError(f"the input {path} has no rows", _EMPTY_HINT)
    reference = InputRef(
        path=str(path), format=format_, size=before.st_size, mtime_ns=before.st_mtime_ns,
        digest=digest_of(path), rows=rows, columns=tuple(columns),
    )  # fmt: skip
    return reference, chunks


def _parquet(path: Path) -> tuple[list[tuple[str, str]], int]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow
            rows = file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file that can be read: {error}") from error
    twice = sorted({name for name in names.names if names.names.count(name) > 1})
    if twice:
        raise InputError(
            f"the input {path} names {', '.join(twice)} twice",
            "Give each column a name of its own.",
        )
    return [(field.name, str(field.type)) for field in names], rows


def _parquet_chunks(rows: int, size: int) -> Iterator[Chunk]:
    for number, first in enumerate(range(0, rows, size)):
        yield Chunk(number, first, min(size, rows - first), {})


def _text_start(stream: BinaryIO, path: Path, format_: TextFormat) -> tuple[list[str], int]:
    """The header's names, if the format has one, and where the records begin."""
    if format_ == "csv":
        return text.header_of(stream, str(path))
    return [], len(BOM) if stream.read(len(BOM)) == BOM else 0


def _text_chunks(spans: Iterator[Span], size: int) -> Iterator[Chunk]:
    number = first = 0
    for head in spans:
        rows, end = 0, head.offset
        for span in islice(chain([head], spans), size):
            rows, end = rows + 1, span.offset + span.bytes
        yield Chunk(number, first, rows, {"offset": head.offset, "bytes": end - head.offset})
        number, first = number + 1, first + rows
