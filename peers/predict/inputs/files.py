"""Files that are opened, known by their digest, and seen to stay as they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pyarrow as pa

from peers.predict.errors import InputChanged, InputError
from peers.predict.spec import DataFile, InputRef, schema_text

InputFormat: TypeAlias = Literal["parquet", "csv", "jsonl"]

DIGEST_BYTES: Final = 32
_FORMATS: Final[dict[str, InputFormat]] = {
    ".parquet": "parquet", ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip


def format_of(path: Path) -> InputFormat:
    """By its suffix. Raises InputError naming those that are known."""
    found = _FORMATS.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"the format of {path} is unknown", f"Known are {', '.join(sorted(_FORMATS))}."
        )
    return found


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file, for reading. Raises InputError with the reason."""
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
    """The file as it was planned, when the block begins and when it ends; else InputChanged."""
    with opened(Path(source.path)) as stream:
        _check(source, stream)
        yield stream
        _check(source, stream)
        # a file that was replaced meanwhile was read whole, but is no longer the run's input
        if os.fstat(stream.fileno()).st_nlink == 0:
            raise _changed(source, "it was replaced")


def reference(digest: str, schema: pa.Schema, path: Path, rows: int) -> InputRef:
    """Return the reference of an input that is one Parquet file."""
    there = path.stat()
    file = DataFile(os.fspath(path), there.st_size, there.st_mtime_ns, rows)
    return InputRef(digest, rows, (file,), schema_text(schema))


def digest_of(path: Path) -> str:
    """Of the contents."""
    with opened(path) as stream:
        return hashlib.file_digest(
            stream, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)
        ).hexdigest()


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
