"""The output's columns and types, on which all chunks of a run agree.

They start as the trial saw them. A chunk that finds another type widens them where that loses
nothing: null to anything, whole numbers to floating-point ones while all of them are exact, a dict
with more keys, finer units of time. Each widening is a file of its own in the run's folder, made by
whoever comes first; others start again from there. A value that does not fit is its row's problem
at once, so that the parts always fit together in the end.
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
        """Return them as an Arrow schema."""
        fields = [
            pa.field(name, kind, metadata=_WIDE if name in self.wide else None)
            for name, kind in self.columns.items()
        ]
        return pa.schema(fields, metadata=_SINGLE if self.is_single else None)

    @classmethod
    def of_schema(cls, schema: pa.Schema) -> OutputType:
        """Return what `as_schema` gave."""
        wide = frozenset(field.name for field in schema if field.metadata)
        columns = {field.name: field.type for field in schema}
        return cls(columns, wide, is_single=bool(schema.metadata))


def single_column(kind: pa.DataType | None = None) -> OutputType:
    """Return the type of an output with one column of predictions."""
    return OutputType({PREDICTION: kind or pa.null()}, frozenset(), is_single=True)


@dataclass(frozen=True, slots=True)
class VersionedType:
    """What is agreed on now, and how many times that was said; `type`: None while nobody knows."""

    version: int
    type: OutputType | None


def current_type(folder: Path) -> VersionedType:
    """Return what the run's chunks agree on now. Raises OutputError."""
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
    """Have all chunks agree on a wider type; False: another chunk has widened it meanwhile.

    Raises OutputError.
    """
    path = _path(folder, before.version + 1)
    temporary = folder / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as stream:
            stream.write(wider.as_schema().serialize())
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)  # never replaces a file
    except FileExistsError:
        return False
    except OSError as error:
        raise storage_failed(path, error) from error
    finally:
        discard(temporary)
    return True


def set_first_type(folder: Path, seen: OutputType | None) -> None:
    """Start with what the trial saw; an earlier trial of the same run counts more.

    Raises OutputConflict if the model has changed so much that its predictions are of no type in
    common with those that the run has.
    """
    before = current_type(folder)
    if seen is None:
        return
    if before.type is None:
        widen_type(folder, before, seen)
    elif not _fit_together(before.type, seen):
        raise OutputConflict(
            f"the model returns {_told(seen)}, where the run's predictions so far are "
            f"{_told(before.type)}",
            "Give the run another --run NAME to do it afresh.",
        )


def _fit_together(before: OutputType, seen: OutputType) -> bool:
    return before.is_single == seen.is_single and all(
        common_type(before.columns.get(name, kind), kind, wide=False) is not None
        for name, kind in seen.columns.items()
    )


def _told(type_: OutputType) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in type_.columns.items())


def _path(folder: Path, version: int) -> Path:
    return folder / f"output-type-{version:06d}.arrow"
