"""What holds for a column as a whole: pandas makes floats of whole numbers with a gap anywhere."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.models.frames import NULLS
from peers.predict.spec import InputRef, schema_text


def noted(source: InputRef) -> InputRef:
    """Return the input; its schema says which whole numbers and booleans have gaps.

    And which columns have nothing else. A Parquet input of several files says so itself; of one
    file, such as a snapshot, it is read from the file's statistics.
    """
    if len(source.files) != 1:
        return source
    schema = source.schema
    nulls = _nulls(source.files[0].path, schema.names)
    for place, field in enumerate(schema):
        count = nulls.get(field.name, 0)
        is_whole = pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
        if count == source.rows or (count and is_whole):
            mark = b"all" if count == source.rows else b"1"
            schema = schema.set(place, field.with_metadata({**(field.metadata or {}), NULLS: mark}))
    return replace(source, arrow_schema=schema_text(schema))


def _nulls(path: str, names: list[str]) -> dict[str, int]:
    """How many nulls columns have that are no lists or structures."""
    found: dict[str, int] = {}
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        for place in range(metadata.num_columns):
            name = str(metadata.schema.column(place).path)
            if name not in names:
                continue
            groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
            statistics = [group.column(place).statistics for group in groups]
            if any(one is None or not one.has_null_count for one in statistics):
                found[name] = file.read([name]).column(0).null_count
            else:
                found[name] = sum(one.null_count for one in statistics)
    return found
