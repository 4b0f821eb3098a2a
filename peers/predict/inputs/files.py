"""Open input files, recognize their formats, and check that they do not change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final, Literal, TypeAlias

from peers.predict.errors import InputChanged, InputError
from peers.predict.spec import DataFile, Partition

InputFormat: TypeAlias = Literal["parquet", "csv", "jsonl"]

SNAPSHOT: Final = "input.parquet"
"""The snapshot of a text file or a query in the run's folder."""
_PARQUET: Final = b"PAR1"
_ENCRYPTED: Final = b"PARE"
_FORMATS: Final[dict[str, InputFormat]] = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_COMPRESSED: Final = frozenset({".gz", ".bz2", ".xz", ".zst"})


def format_of(path: Path) -> InputFormat:
    """Return the format by the suffix; a Parquet file may have an unknown suffix.

    Raises InputError for an unknown format, and for contents that do not match the suffix.
    """
    found = _FORMATS.get(plain_suffix(path))
    with opened(path) as stream:
        head = stream.read(len(_PARQUET))
        if len(head) == len(_PARQUET):
            stream.seek(-len(_PARQUET), os.SEEK_END)
        ends = {head, stream.read()}
    if ends == {_PARQUET}:
        if found in {None, "parquet"}:
            return "parquet"
        raise InputError(f"{path} is a Parquet file by its contents", "Name it *.parquet.")
    if found == "parquet" and head not in {_PARQUET, _ENCRYPTED}:
        raise InputError(
            f"{path} is not a Parquet file: it begins with {head!r}, not with {_PARQUET!r}",
            "Give it the suffix of its format, or write it again.",
        )
    if found is None:
        raise InputError(
            f"the format of {path} is unknown",
            f"The known formats are {', '.join(sorted(_FORMATS))}.",
        )
    return found


def plain_suffix(path: Path) -> str:
    """Return the suffix of the format, without that of a compression."""
    is_compressed = path.suffix.lower() in _COMPRESSED
    return (Path(path.stem) if is_compressed else path).suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open the file for reading. Raises InputError with the reason."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputError(
            f"the input {path} cannot be read: {error.strerror}",
            "It must be a file on a path that all hosts of the peers share.",
        ) from error
    with stream:
        yield stream


@contextmanager
def unchanged(source: DataFile) -> Iterator[BufferedReader]:
    """Open the file. Raises InputChanged if it differs from the plan before or after the block."""
    path = Path(source.path)
    if not path.exists() and path.parent.exists():  # otherwise the folder may not be mounted
        raise _changed(source, "it no longer exists")
    with opened(path) as stream:
        _check(source, stream)
        yield stream
        _check(source, stream)
        # a file that was replaced was read completely, but is no longer the run's input
        if os.fstat(stream.fileno()).st_nlink == 0:
            raise _changed(source, "it was replaced")


def data_file(path: Path, rows: int, partition: Partition = ()) -> DataFile:
    """Return the file as it is now."""
    there = path.stat()
    return DataFile(os.fspath(path), there.st_size, there.st_mtime_ns, rows, partition)


def _check(source: DataFile, stream: BufferedReader) -> None:
    now = os.fstat(stream.fileno())
    if now.st_size != source.size:
        raise _changed(source, f"it had {source.size} bytes and has {now.st_size}")
    if now.st_mtime_ns != source.mtime_ns:
        raise _changed(source, "it was written to")


def _changed(source: DataFile, how: str) -> InputChanged:
    return InputChanged(
        f"the input {source.path} has changed since the run was planned: {how}",
        "Run the same command again: it starts a new run with the present input.",
    )
