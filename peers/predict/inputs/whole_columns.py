"""Find missing values in whole columns: with one, pandas makes floats of integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.column_metadata import ALL, BY_VALUES, NULLS, READER, YES
from peers.predict.inputs.forward import streaming
from peers.predict.inputs.reading import readable_counts
from peers.predict.spec import InputRef, schema_text


def with_missing_values(source: InputRef) -> InputRef:
    """Return the input with missing values of integer and boolean columns in its schema's metadata.

    For readers that pass Python values to pandas, columns without any value are marked as well. A
    Parquet input of several files has the metadata already; a single file, such as a snapshot, is
    read for it.
    """
    if len(source.files) != 1:
        return source
    schema = source.schema
    is_by_values = (schema.metadata or {}).get(READER) in BY_VALUES
    with streaming(source.files[0].path) as file:
        places = {
            str(file.metadata.schema.column(n).path): n for n in range(file.metadata.num_columns)
        }
        for at, field in enumerate(schema):
            is_whole = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
            if field.name not in places or not (is_whole or is_by_values):
                continue
            has_gaps, has_values = _contents(file, field.name, places[field.name])
            if has_gaps and (is_whole or not has_values):
                mark = YES if has_values else ALL
                noted_field = field.with_metadata({**(field.metadata or {}), NULLS: mark})
                schema = schema.set(at, noted_field)
    return replace(source, arrow_schema=schema_text(schema))


def _contents(file: pq.ParquetFile, name: str, place: int) -> tuple[bool, bool]:
    """Return whether the column has a missing value, and whether it has a value."""
    has_gaps = has_values = False
    for rows, nulls in _counts(file, name, place):
        has_gaps, has_values = has_gaps or nulls > 0, has_values or nulls < rows
        if has_gaps and has_values:
            break
    return has_gaps, has_values


def _counts(file: pq.ParquetFile, name: str, place: int) -> Iterator[tuple[int, int]]:
    """Yield rows and nulls of each row group, or of pieces of it without counts in the file."""
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    statistics = [group.column(place).statistics for group in groups]
    if all(one is not None and one.has_null_count for one in statistics):
        yield from (
            (group.num_rows, one.null_count) for group, one in zip(groups, statistics, strict=True)
        )
        return
    yield from readable_counts(file, name)
