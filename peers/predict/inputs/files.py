"""Files that are opened, known by their digest, and seen to stay as they are."""

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
"""What a run keeps of a text or a query, in its folder."""
_PARQUET: Final = b"PAR1"
_ENCRYPTED: Final = b"PARE"
_FORMATS: Final[dict[str, InputFormat]] = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv", ".tsv": "csv",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
}  # fmt: skip
_COMPRESSED: Final = frozenset({".gz", ".bz2", ".xz", ".zst"})


def format_of(path: Path) -> InputFormat:
    """Return the format by the suffix; a Parquet file may have any that is none of ours.

    Raises InputError for a file that is not what its name says, or unknown.
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
            f"{path} is no Parquet file: it begins with {head!r}, not with {_PARQUET!r}",
            "Name it by what it is, or write it again.",
        )
    if found is None:
        raise InputError(
            f"the format of {path} is unknown", f"Known are {', '.join(sorted(_FORMATS))}."
        )
    return found


def plain_suffix(path: Path) -> str:
    """Return the suffix that tells the format, before one that tells how the file is compressed."""
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
    """Open the file. Raises InputChanged if it is not as planned when the block begins and ends."""
    path = Path(source.path)
    if not path.exists() and path.parent.exists():  # else it may be a folder that is not mounted
        raise _changed(source, "it is gone")
    with opened(path) as stream:
        _check(source, stream)
        yield stream
        _check(source, stream)
        # a file that was replaced meanwhile was read whole, but is no longer the run's input
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
        "Run the same command again: it starts a new run on what is there now.",
    )
