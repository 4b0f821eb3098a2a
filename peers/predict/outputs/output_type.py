"""The columns and types of the output, which all chunks of a run share.

They start with the types of the smoke test. A chunk that finds another type widens the shared one
if that loses nothing: null to anything, integers to floating-point numbers while all are exact, a
dict with more keys, finer units of time. Each version is a file in the run's folder. The first
chunk that writes a version wins; others start again from it. A value that does not fit is a problem
of its row at once, so that the parts always fit together in the end.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from peers.predict.atomic_files import discard, storage_failed
from peers.predict.errors import OutputConflict, OutputError
from peers.predict.outputs.widening import common_type
from peers.predict.predictions import PREDICTION

_WIDE: Final = {b"peers.wide": b"1"}
_SINGLE: Final = {b"peers.single": b"1"}


@dataclass(frozen=True, slots=True)
class OutputType:
    """The columns of predictions. `is_single`: each row's whole result is in one column.

    `wide`: columns with values that a wider type cannot hold; see `widening`.
    """

    columns: dict[str, pa.DataType]
    wide: frozenset[str]
    is_single: bool

    def as_schema(self) -> pa.Schema:
        """Return the columns as an Arrow schema."""
        fields = [
            pa.field(name, kind, metadata=_WIDE if name in self.wide else None)
            for name, kind in self.columns.items()
        ]
        return pa.schema(fields, metadata=_SINGLE if self.is_single else None)

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> OutputType:
        """Return the columns in a schema that `as_schema` made."""
        wide = frozenset(field.name for field in schema if field.metadata)
        columns = {field.name: field.type for field in schema}
        return cls(columns, wide, is_single=bool(schema.metadata))


def single_column(kind: pa.DataType | None = None) -> OutputType:
    """Return the type of an output with one column of predictions."""
    return OutputType({PREDICTION: kind or pa.null()}, frozenset(), is_single=True)


@dataclass(frozen=True, slots=True)
class VersionedType:
    """The shared type and its version; `type`: None while it is unknown."""

    version: int
    type: OutputType | None


def current_type(folder: Path) -> VersionedType:
    """Return the shared type of the run. Raises OutputError."""
    version, found = 0, None
    while True:
        path = _path(folder, version + 1)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return VersionedType(version, found)
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}") from error
        found = OutputType.of_schema(pa.ipc.read_schema(pa.py_buffer(content)))
        version += 1


def widen_type(folder: Path, before: VersionedType, wider: OutputType) -> bool:
    """Replace the shared type by a wider one; return False if another chunk was first.

    Raises OutputError.
    """
    path = _path(folder, before.version + 1)
    temporary = folder / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as stream:
            stream.write(wider.as_schema().serialize())
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)  # fails if the file exists
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_failed(path, error) from error
    finally:
        discard(temporary)
    return True


def set_first_type(folder: Path, seen: OutputType | None) -> None:
    """Set the shared type to that of the smoke test, unless the run has one already.

    Raises OutputConflict if the model has changed so much that its predictions have no common type
    with those of the run.
    """
    before = current_type(folder)
    if seen is None:
        return
    if before.type is None:
        widen_type(folder, before, seen)
    elif not _fit_together(before.type, seen):
        raise OutputConflict(
            f"the model returns {_description(seen)}, but the run's predictions so far are "
            f"{_description(before.type)}",
            "Give the run another --run NAME to start it again.",
        )


def _fit_together(before: OutputType, seen: OutputType) -> bool:
    return before.is_single == seen.is_single and all(
        common_type(before.columns.get(name, kind), kind, wide=False) is not None
        for name, kind in seen.columns.items()
    )


def _description(type_: OutputType) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in type_.columns.items())


def _path(folder: Path, version: int) -> Path:
    return folder / f"output-type-{version:06d}.arrow"
