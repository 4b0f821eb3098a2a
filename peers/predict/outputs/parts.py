"""Write and read a chunk's part: row numbers, ids, carried columns and predictions, as Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.atomic_files import atomic_write
from peers.predict.errors import OutputConflict
from peers.predict.outputs.encoding import writer_options
from peers.predict.outputs.fitting import RequestedColumns
from peers.predict.outputs.text_parts import is_text, text_path, write_text
from peers.predict.spec import Chunk, Manifest

ROW: Final = "row"
ID: Final = "id"
_NOTE: Final = b"peers.note"
_TEXT: Final = b"peers.text"


class Part(NamedTuple):
    """The metadata of a part. `text`: describes its lines for the output; None without lines."""

    schema: pa.Schema
    rows: int
    note: str
    text: dict[str, Any] | None


def requested_columns(manifest: Manifest) -> RequestedColumns:
    """Return the columns of the model that the user chose."""
    return RequestedColumns(manifest.columns, tuple(kept_schema(manifest).names))


def kept_schema(manifest: Manifest) -> pa.Schema:
    """Return the output's columns that come before the predictions."""
    source = manifest.input.schema
    fields = [pa.field(ROW, pa.int64())]
    if manifest.id_column is not None:
        fields.append(source.field(manifest.id_column).with_name(ID))
    return pa.schema([*fields, *(source.field(name) for name in manifest.carry)])


def kept_columns(manifest: Manifest, numbers: Any, rows: pa.Table) -> pa.Table:
    """Return row numbers, ids and carried columns of these rows of the input."""
    schema = kept_schema(manifest)
    named: dict[str, Any] = {ROW: pa.array(numbers, pa.int64())}
    if manifest.id_column is not None:
        named[ID] = rows.column(manifest.id_column)
    named |= {name: rows.column(name) for name in manifest.carry}
    return pa.table(named).cast(schema) if schema.names != [ROW] else pa.table(named)


def part_path(folder: Path, number: int) -> Path:
    """Return the path of a chunk's part."""
    return folder / f"chunk-{number:06d}.parquet"


def write_part(
    manifest: Manifest, number: int, kept: pa.Table, predictions: pa.Table, note: str = ""
) -> Path:
    """Write a chunk's part and, in the same file, a note about the rows that are not in it.

    In one file, overlapping attempts cannot mix their results. For an output in CSV or JSON Lines,
    the lines are in a file beside it. Raises OutputError.
    """
    table = kept
    for field, column in zip(predictions.schema, predictions.columns, strict=True):
        table = table.append_column(field.name, column)
    output, text = Path(manifest.output), None
    if is_text(output):
        text = write_text(text_path(manifest.folder, number, output), output, table)
    return _write(part_path(manifest.folder, number), table, note, text)


def annotate_part(folder: Path, number: int, note: str) -> None:
    """Replace the note of a finished part. Raises OutputError."""
    about = about_part(folder, number)
    if about.note != note:
        _write(part_path(folder, number), read_part(folder, number), note, about.text)


def _write(path: Path, table: pa.Table, note: str, text: dict[str, Any] | None) -> Path:
    try:
        with atomic_write(path) as temporary:
            annotated = table.replace_schema_metadata({_NOTE: note, _TEXT: json.dumps(text)})
            pq.write_table(annotated, temporary, **writer_options(annotated.schema))
    except pa.ArrowException as error:
        raise OutputConflict(
            f"{path} cannot hold the model's predictions: {error}",
            "A model must return numbers, texts, lists or dicts with something in them.",
        ) from error
    return path


def read_part(folder: Path, number: int, columns: list[str] | None = None) -> pa.Table:
    """Return a chunk's part, or these columns of it. Raises OutputConflict if it is missing."""
    path = part_path(folder, number)
    try:
        # read_table goes through pyarrow.dataset, which doubles the time
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise OutputConflict(
            f"the finished part {path} is missing or damaged: {error}",
            "The same command makes it again.",
        ) from error


def rows_of_part(folder: Path, chunk: Chunk) -> np.ndarray[Any, Any] | None:
    """Return the indices of the rows in a chunk's finished part; None if there is no part."""
    try:
        part = read_part(folder, chunk.number)
    except OutputConflict:  # missing or damaged: the chunk makes it again
        return None
    rows: np.ndarray[Any, Any] = part.column(ROW).to_numpy() - chunk.first
    fits = bool((np.diff(rows) > 0).all()) and (
        not len(rows) or (rows[0] >= 0 and rows[-1] < chunk.rows)
    )
    return rows if fits else None


def is_whole(folder: Path, number: int) -> bool:
    """Return whether a chunk's part exists and is undamaged."""
    try:
        read_part(folder, number)
    except OutputConflict:
        return False
    return True


def note_of_part(folder: Path, number: int) -> str:
    """Return the note of a part. Raises OutputConflict if the part is missing."""
    return about_part(folder, number).note


def about_part(folder: Path, number: int) -> Part:
    """Return the metadata of a part. Raises OutputConflict if the part is missing."""
    try:
        found = pq.read_metadata(part_path(folder, number))
        schema = found.schema.to_arrow_schema()
    except (OSError, pa.ArrowException):
        whole = read_part(folder, number)
        found, schema = whole, whole.schema
    metadata = schema.metadata or {}
    note = metadata.get(_NOTE, b"").decode()
    text = json.loads(metadata.get(_TEXT, b"null"))
    return Part(schema.remove_metadata(), found.num_rows, note, text)
