"""Write a chunk's lines beside its part, so that CSV and JSON Lines are assembled by copying."""

from __future__ import annotations

import mmap
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow as pa

from peers.predict.atomic_files import discard, storage_failed
from peers.predict.outputs.rendering import csv_header, csv_lines, json_lines

Lines = Callable[[pa.Table], Iterator[memoryview]]

_LINES: Final[dict[str, Lines]] = {".csv": csv_lines, ".jsonl": json_lines}


def is_text(output: Path) -> bool:
    """Return whether the output is a text file."""
    return output.suffix.lower() in _LINES


def header(output: Path, names: list[str]) -> bytes:
    """Return the header of the output."""
    return csv_header(names) if output.suffix.lower() == ".csv" else b""


def lines(output: Path, table: pa.Table) -> Iterator[memoryview]:
    """Yield blocks of lines for the rows."""
    return _LINES[output.suffix.lower()](table)


def text_path(folder: Path, number: int, output: Path) -> Path:
    """Return the path of a chunk's lines."""
    return folder / f"chunk-{number:06d}{output.suffix.lower()}"


def write_text(path: Path, output: Path, table: pa.Table) -> dict[str, Any]:
    """Write the rows' lines, and return their size and digest. Raises StorageFailed.

    They need not survive a loss of power: damaged lines are rendered again.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    size, checksum = 0, 0
    try:
        with temporary.open("xb") as stream:
            for content in lines(output, table):
                stream.write(content)
                size, checksum = size + len(content), zlib.crc32(content, checksum)
        temporary.replace(path)
    except OSError as error:
        raise storage_failed(path, error) from error
    finally:
        discard(temporary)
    return {"bytes": size, "crc32": checksum}


def copy_text(path: Path, known: dict[str, Any], target: BinaryIO) -> bool:
    """Append a chunk's lines to the output; return False without a change if they are damaged."""
    try:
        source = path.open("rb")
    except OSError:
        return False
    with source:
        size = os.fstat(source.fileno()).st_size
        if size != known["bytes"]:
            return False
        if not size:
            return True
        with mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as content:
            if zlib.crc32(content) != known["crc32"]:
                return False
        target.flush()
        _copy(source, target, size)
    return True


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    left = size
    try:
        while left:
            copied = os.copy_file_range(source.fileno(), target.fileno(), left)
            if not copied:
                break
            left -= copied
    except OSError:
        pass  # this file system does not support it
    if left:
        source.seek(size - left)
        target.seek(0, os.SEEK_END)
        shutil.copyfileobj(source, target, 1 << 20)
