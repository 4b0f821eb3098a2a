"""Write the rows of a text input to Parquet, block by block."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.atomic_files import storage_failed
from peers.predict.inputs.reading import PROBLEM

PROBLEM_FIELD: Final = pa.field(PROBLEM, pa.string())
_DIGEST: Final = b"peers.input"


class Draft:
    """A Parquet file with the rows, and the reasons why some cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self.is_whole = True
        """Whether it has all blocks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError:
                if error is None:
                    raise

    def write(self, table: pa.Table | None, bad: dict[int, str]) -> None:
        """Append a block; None stops the draft: this block cannot be written."""
        if table is None:
            self.is_whole = False
        if table is None or not self.is_whole:
            return
        problems: list[Any] = [bad.get(index) for index in range(table.num_rows)] if bad else []
        column = pa.array(problems, pa.string()) if bad else pa.nulls(table.num_rows, pa.string())
        self._to_disk(table.append_column(PROBLEM_FIELD, column))

    def finish(self, digest: str) -> None:
        """Record the source in the file, which completes it."""
        if self._writer is not None:
            self._writer.add_key_value_metadata({_DIGEST: digest})

    def _to_disk(self, table: pa.Table) -> None:
        try:
            if self._writer is None:
                texts = [field.name for field in table.schema if not _is_plain(field.type)]
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = pq.ParquetWriter(
                    self._path, table.schema, compression="lz4", use_dictionary=texts or False,
                    write_statistics=False,
                )  # fmt: skip
            self._writer.write_table(table)
        except OSError as error:
            raise storage_failed(self._path, error) from error


def has_draft(path: Path, schema: pa.Schema, rows: int, digest: str) -> bool:
    """Return whether a complete draft of this input with these columns exists."""
    try:
        with pq.ParquetFile(path) as file:
            found, metadata = file.schema_arrow, file.metadata
    except (OSError, pa.ArrowException):
        return False
    return bool(
        metadata.num_rows == rows
        and (metadata.metadata or {}).get(_DIGEST) == digest.encode()
        and all(
            field.name in found.names and _kept(found.field(field.name).type) == _kept(field.type)
            for field in schema
        )
    )


def _kept(kind: pa.DataType) -> pa.DataType:
    """Return the type in the Parquet file: categories are stored as their values."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_plain(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(is_number or pa.types.is_boolean(kind))
