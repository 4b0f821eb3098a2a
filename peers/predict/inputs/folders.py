"""Find the Parquet files of a folder or a pattern, and the partition values in folder names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path, PurePath
from typing import Final, TypeAlias
from urllib.parse import unquote

import pyarrow as pa

from peers.predict.errors import InputError
from peers.predict.inputs.files import format_of, opened

Keys: TypeAlias = "dict[str, str | None]"
"""The keys of a Hive partition, as the folders spell them: {"year": "2024"}."""

_NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
_IGNORED: Final = (".", "_")
"""Prefixes of files and folders that are not data: _SUCCESS, _metadata, .crc."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of an input."""

    path: Path
    keys: Keys = field(default_factory=dict)


def parts_of(place: str) -> list[Part] | None:
    """Return the files of a folder or a pattern, sorted by path; None if `place` is one file.

    The order and what is ignored are those of pyarrow. Raises InputError.
    """
    path = Path(place).expanduser().absolute()
    if path.is_dir():
        found = [Part(file, _keys(file.relative_to(path))) for file in _walk(path)]
        what = "folder"
    elif has_magic(place) and not path.exists():
        found = sorted(_matches(place), key=lambda part: str(part.path))
        what = "pattern"
    else:
        return None
    if not found:
        raise InputError(
            f"the {what} {place} holds no data",
            "Names that begin with _ or . are ignored, as pyarrow does.",
        )
    for part in found:
        _require_parquet(part.path, f"{what} {place}")
    return found


def partitions(parts: Sequence[Part]) -> dict[str, pa.Array]:
    """Return the values of each key in all files, with the types that pandas gives them.

    They are 32-bit integers if all are, otherwise texts. They are null if a folder says so, or has
    no such key.
    """
    keys = dict.fromkeys(key for part in parts for key in part.keys)
    return {key: _typed([part.keys.get(key) for part in parts]) for key in keys}


def _typed(values: Sequence[str | None]) -> pa.Array:
    texts = pa.array(values, pa.string())
    try:
        return texts if texts.null_count == len(texts) else texts.cast(pa.int32())
    except pa.ArrowInvalid:
        return texts


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        there = Path(place).stat()
        if (there.st_dev, there.st_ino) in seen:  # a link back to this folder
            folders.clear()
            continue
        seen.add((there.st_dev, there.st_ino))
        folders[:] = [name for name in folders if not name.startswith(_IGNORED)]
        found += [Path(place, name) for name in files if not name.startswith(_IGNORED)]
    return sorted(found, key=str)


def _refuse(error: OSError) -> None:
    raise InputError(f"the input {error.filename} cannot be read: {error.strerror}") from error


def _matches(pattern: str) -> Iterator[Part]:
    # Path.glob includes hidden files, and does not support absolute patterns
    for name in glob(str(Path(pattern).expanduser()), recursive=True):  # noqa: PTH207
        path = Path(name)
        if path.name.startswith(_IGNORED):
            continue
        files = _walk(path) if path.is_dir() else [path]
        for file in files:
            yield Part(file.absolute(), _keys(file))


def _keys(path: PurePath) -> Keys:
    """Return the keys in the folder names of this path; the innermost folder wins."""
    found: dict[str, str | None] = {}
    for folder in path.parent.parts:
        key, is_one, value = folder.partition("=")
        if is_one and key:
            found[unquote(key)] = None if value == _NO_VALUE else unquote(value)
    return found


def _require_parquet(path: Path, where: str) -> None:
    with opened(path) as stream:
        is_empty = not os.fstat(stream.fileno()).st_size
    if is_empty:
        raise InputError(
            f"{path} in the {where} is empty: it has no bytes",
            "Write it again, remove it, or start its name with _ so that it is ignored.",
        )
    if format_of(path) != "parquet":
        raise InputError(
            f"{path} in the {where} is not a Parquet file",
            "A folder or a pattern must contain only Parquet files. Pass text files one by one.",
        )
