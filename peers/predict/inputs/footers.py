"""Read the footer of a Parquet file: its columns, its rows and their groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError
from peers.predict.inputs.files import opened
from peers.predict.inputs.forward import streaming


@dataclass(frozen=True, slots=True)
class Footer:
    """A file as it was at the survey.

    `groups`: the rows of each row group. `gaps`: columns of integers and booleans in which a value
    is missing; pandas changes their dtypes.
    """

    schema: pa.Schema
    size: int
    mtime_ns: int
    groups: tuple[int, ...]
    gaps: frozenset[str]

    def has_gap(self, name: str) -> bool:
        """Return whether values of this column are missing in the file, some or all of them."""
        place = self.schema.get_field_index(name)
        return place < 0 or name in self.gaps or pa.types.is_null(self.schema.field(place).type)

    @property
    def rows(self) -> int:
        """The number of rows in the file."""
        return sum(self.groups)


def footer_of(path: Path) -> Footer:
    """Read the footer; an unchanged file is read once. Raises InputError."""
    with opened(path) as stream:
        there = os.fstat(stream.fileno())
    return _footer(path, there.st_size, there.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _footer(path: Path, size: int, mtime_ns: int) -> Footer:
    try:
        with streaming(str(path)) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = tuple(
                metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)
            )
            gaps = frozenset(_with_gaps(file))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a Parquet file: {error}") from error
    return Footer(schema, size, mtime_ns, groups, gaps)


def _with_gaps(file: pq.ParquetFile) -> Iterator[str]:
    """Yield the columns of integers and booleans in which a value is missing."""
    columns = {
        column.path: place
        for place, column in enumerate(file.schema)
        if not column.max_repetition_level
    }
    for field in file.schema_arrow:
        may_change = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
        place = columns.get(field.name) if may_change else None
        if place is not None and _has_gap(file, field.name, place):
            yield field.name


def _has_gap(file: pq.ParquetFile, name: str, place: int) -> bool:
    if not file.schema.column(place).max_definition_level:
        return False
    groups = range(file.metadata.num_row_groups)
    counts = [_null_count(file.metadata, group, place) for group in groups]
    if any(counts):
        return True
    if None not in counts:
        return False
    batches = file.iter_batches(columns=[name], use_threads=False)
    return any(batch.column(name).null_count for batch in batches)


def _null_count(metadata: pq.FileMetaData, group: int, place: int) -> int | None:
    statistics = metadata.row_group(group).column(place).statistics
    if statistics is None or not statistics.has_null_count:
        return None
    count: int = statistics.null_count
    return count
