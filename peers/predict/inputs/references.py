"""Make the reference to an input, from which any chunk can be read: files, types, categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.types as kinds

from peers.predict.column_metadata import PARTITION
from peers.predict.inputs import categories
from peers.predict.inputs.files import data_file
from peers.predict.spec import DataFile, InputRef, schema_text


def reference(digest: str, schema: pa.Schema, path: Path, rows: int) -> InputRef:
    """Return the reference of a text input, whose snapshot is in the run's folder.

    Categories are sorted, as in `pandas.read_csv`.
    """
    files = (data_file(path, rows),)
    return reference_of(digest, schema, files, path.parent, ordered_by_value=True)


def reference_of(
    digest: str,
    schema: pa.Schema,
    files: Sequence[DataFile],
    folder: Path,
    *,
    ordered_by_value: bool = False,
) -> InputRef:
    """Return the reference of these Parquet files; the categories are stored in `folder`."""
    fields = [field for field in schema if kinds.is_dictionary(field.type)]
    path = categories.place(folder, fields)
    if fields and path is None:
        inside = [field for field in fields if PARTITION not in (field.metadata or {})]
        found = categories.gathered(files, inside, ordered_by_value=ordered_by_value)
        found |= {
            field.name: categories.of_partition(files, field)
            for field in fields
            if field not in inside
        }
        path = categories.keep(found, folder)
    rows = sum(file.rows for file in files)
    return InputRef(digest, rows, tuple(files), schema_text(schema), path)
