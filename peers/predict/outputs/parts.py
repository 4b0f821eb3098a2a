"""The part that a chunk leaves: row numbers, ids, carried columns and predictions, as Parquet."""

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
    """What a part's metadata say. `text`: of its lines for the output; None without any."""

    schema: pa.Schema
    rows: int
    note: str
    text: dict[str, Any] | None


def requested_columns(manifest: Manifest) -> RequestedColumns:
    """Return what the run's user wants of the model's columns."""
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
    """Where the part of a chunk lies."""
    return folder / f"chunk-{number:06d}.parquet"


def write_part(
    manifest: Manifest, number: int, kept: pa.Table, predictions: pa.Table, note: str = ""
) -> Path:
    """Write a chunk's part and, in the same file, a note about the rows that are not in it.

    So that attempts which overlap leave what one of them found, whole. For an output in CSV or JSON
    Lines, its lines are in a file beside it. Raises OutputError.
    """
    table = kept
    for field, column in zip(predictions.schema, predictions.columns, strict=True):
        table = table.append_column(field.name, column)
    output, text = Path(manifest.output), None
    if is_text(output):
        text = write_text(text_path(manifest.folder, number, output), output, table)
    return _write(part_path(manifest.folder, number), table, note, text)


def annotate_part(folder: Path, number: int, note: str) -> None:
    """Another note for a finished part. Raises OutputError."""
    about = about_part(folder, number)
    if about.note != note:
        _write(part_path(folder, number), read_part(folder, number), note, about.text)


def _write(path: Path, table: pa.Table, note: str, text: dict[str, Any] | None) -> Path:
    try:
        with atomic_write(path) as temporary:
            noted = table.replace_schema_metadata({_NOTE: note, _TEXT: json.dumps(text)})
            pq.write_table(noted, temporary, **writer_options(noted.schema))
    except pa.ArrowException as error:
        raise OutputConflict(
            f"{path} cannot hold the model's predictions: {error}",
            "A model must return numbers, texts, lists or dicts with something in them.",
        ) from error
    return path


def read_part(folder: Path, number: int, columns: list[str] | None = None) -> pa.Table:
    """A chunk's part, or these columns of it. Raises OutputConflict when it is not there."""
    path = part_path(folder, number)
    try:
        # pyarrow.dataset, through which read_table goes, costs as much again
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise OutputConflict(
            f"the finished part {path} is missing or damaged: {error}",
            "The same command makes it anew.",
        ) from error


def rows_of_part(folder: Path, chunk: Chunk) -> np.ndarray[Any, Any] | None:
    """Which rows of the chunk, by their index, are in its finished part; None: there is none."""
    try:
        part = read_part(folder, chunk.number)
    except OutputConflict:  # not there, or damaged: it is made anew
        return None
    rows: np.ndarray[Any, Any] = part.column(ROW).to_numpy() - chunk.first
    fits = bool((np.diff(rows) > 0).all()) and (
        not len(rows) or (rows[0] >= 0 and rows[-1] < chunk.rows)
    )
    return rows if fits else None


def is_whole(folder: Path, number: int) -> bool:
    """Whether a chunk's part is there, and what was written."""
    try:
        read_part(folder, number)
    except OutputConflict:
        return False
    return True


def note_of_part(folder: Path, number: int) -> str:
    """The note that it was written with. Raises OutputConflict when it is not there."""
    return about_part(folder, number).note


def about_part(folder: Path, number: int) -> Part:
    """Return what a part's metadata say. Raises OutputConflict when it is not there."""
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
