"""Read one chunk of an input: exactly its rows, with a reason for each that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import pyarrow as pa

from peers.predict.errors import InputError
from peers.predict.inputs.files import unchanged
from peers.predict.inputs.forward import ForwardReader
from peers.predict.spec import Chunk, DataFile, InputRef

PROBLEM: Final = "peers.problem"
"""The column of a snapshot that says why a row could not be read; its values are null then."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A chunk's rows; `bad`: index in the chunk → why it cannot be read, its values are null."""

    table: pa.Table
    bad: dict[int, str]


def read(source: InputRef, chunk: Chunk, columns: Sequence[str]) -> Rows:
    """Return the chunk's rows: these columns, in this order, in the types of the input's schema.

    Raises InputChanged when a file is not what was planned, InputError when it cannot be read.
    """
    schema = source.schema
    names = [name for name in schema.names if name != PROBLEM]
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"the input has no column {', '.join(missing)}", f"It has {', '.join(names)}."
        )
    wanted = [*columns, PROBLEM] if PROBLEM in schema.names else list(columns)
    table = _read(source, chunk, tuple(wanted))
    bad = _problems(table.column(PROBLEM)) if PROBLEM in wanted else {}
    return Rows(table.select(list(columns)), bad)


def _read(source: InputRef, chunk: Chunk, columns: tuple[str, ...]) -> pa.Table:
    (file,) = source.files
    with unchanged(file):
        try:
            return _reader(file, columns).rows(chunk.first, chunk.rows)
        except (pa.ArrowException, OSError) as error:
            last = chunk.first + chunk.rows - 1
            raise InputError(
                f"rows {chunk.first} to {last} of {file.path} cannot be read: {error}"
            ) from error


@lru_cache(maxsize=1)
def _reader(file: DataFile, columns: tuple[str, ...]) -> ForwardReader:
    """Neighbouring chunks go to the same worker again and again."""
    return ForwardReader(file.path, columns)


def _problems(column: pa.ChunkedArray) -> dict[int, str]:
    if column.null_count == len(column):
        return {}
    return {index: why for index, why in enumerate(column.to_pylist()) if why is not None}
