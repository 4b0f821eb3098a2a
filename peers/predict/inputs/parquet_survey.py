"""Survey Parquet files: the user's own, or a snapshot of a query."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.types as kinds

from peers.predict.errors import InputChanged, InputError
from peers.predict.inputs import schemas
from peers.predict.inputs.casting import check_cast
from peers.predict.inputs.digests import Digest
from peers.predict.inputs.files import SNAPSHOT
from peers.predict.inputs.folders import Part, partitions
from peers.predict.inputs.footers import Footer, footer_of
from peers.predict.inputs.reading import PROBLEM
from peers.predict.inputs.references import reference_of
from peers.predict.spec import DataFile, InputRef

_AT_ONCE: Final = 8
"""Footers that are read concurrently: they may be on a network."""


@dataclass(frozen=True, slots=True)
class _File:
    part: Part
    footer: Footer


class ParquetSurvey:
    """Files of one schema, in order; `is_ours`: a snapshot, which moves to the run's folder."""

    def __init__(
        self,
        parts: Sequence[Part],
        reader: Literal["parquet", "query"] = "parquet",
        *,
        is_ours: bool = False,
    ) -> None:
        self._is_ours = is_ours
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            footers = list(pool.map(footer_of, [part.path for part in parts]))
        self._files = [_File(*pair) for pair in zip(parts, footers, strict=True)]
        self._partitions = partitions(parts)
        self.rows = sum(footer.rows for footer in footers)
        if not self.rows:
            raise InputError(
                f"the input {_named(parts)} has no rows", "There is nothing to predict."
            )
        schema, self.notes = schemas.unified(
            [(file.part.path, file.footer.schema) for file in self._files], self._partitions
        )
        if PROBLEM in schema.names:
            raise InputError(
                f"the input {_named(parts)} has a column {PROBLEM!r}, which Peers uses itself",
                "Rename it.",
            )
        self.schema = schemas.marked(schema, self._gaps(schema), reader)
        # the types, and the values of partitions, are part of the contents
        identity = str([sorted(part.keys.items()) for part in parts if part.keys])
        self._digest = Digest([part.path for part in parts], identity)

    @cached_property
    def digest(self) -> str:
        """The digest of all contents. Raises InputChanged if a file was written to meanwhile."""
        found = self._digest.result()
        for file in self._files:
            there = footer_of(file.part.path)
            if (there.size, there.mtime_ns) != (file.footer.size, file.footer.mtime_ns):
                raise InputChanged(
                    f"the input {file.part.path} changed while it was read",
                    "Run the same command again when nothing writes to it.",
                )
        return found

    def with_types(self, schema: pa.Schema, folder: Path) -> InputRef:
        """Return the input with these of its columns in these types.

        Values that do not fit the type of their column are found when the chunk is read.
        """
        missing = [name for name in schema.names if name not in self.schema.names]
        if missing:
            raise InputError(
                f"the input has no column {', '.join(missing)}",
                f"It has {', '.join(self.schema.names)}.",
            )
        for field in schema:
            check_cast(self.schema.field(field.name), field.type)
        if self._is_ours:
            self._move(folder / SNAPSHOT)
        fields = schemas.decided(self.schema, _with_wide_indices(schema))
        return reference_of(self.digest, fields, self._data_files(), folder)

    def close(self) -> None:
        """Stop reading the files."""
        self._digest.close()

    def _gaps(self, schema: pa.Schema) -> set[str]:
        may_change = [
            field.name
            for field in schema
            if kinds.is_integer(field.type) or kinds.is_boolean(field.type)
        ]
        footers = [file.footer for file in self._files if file.footer.rows]
        return {name for name in may_change if any(footer.has_gap(name) for footer in footers)}

    def _move(self, target: Path) -> None:
        assert self.digest  # of the file in its present place
        (file,) = self._files
        if not target.exists():
            file.part.path.replace(target)
        self._files = [_File(Part(target), footer_of(target))]

    def _data_files(self) -> list[DataFile]:
        found = []
        for place, (part, footer) in enumerate((file.part, file.footer) for file in self._files):
            keys = tuple((key, values[place].as_py()) for key, values in self._partitions.items())
            found.append(DataFile(str(part.path), footer.size, footer.mtime_ns, footer.rows, keys))
        return found


def _named(parts: Sequence[Part]) -> str:
    return str(parts[0].path) if len(parts) == 1 else f"{parts[0].path} and the files beside it"


def _with_wide_indices(schema: pa.Schema) -> pa.Schema:
    """Return the column's type with the widest index type: files have different categories."""
    fields = [
        field.with_type(pa.dictionary(pa.int32(), field.type.value_type, field.type.ordered))
        if kinds.is_dictionary(field.type)
        else field
        for field in schema
    ]
    return pa.schema(fields, metadata=schema.metadata)
