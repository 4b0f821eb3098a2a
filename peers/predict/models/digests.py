"""Compute digests of models, to notice a model that has changed since its run was planned."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from io import BufferedReader
from pathlib import Path
from typing import Final

_DIGEST_BYTES: Final = 32
_ONNX_COMPANIONS: Final = (".data", "_data")
"""Suffixes of files that exporters write for weights outside of the model."""
_ONNX_LOCATION: Final = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])")
"""The entry that names another file of weights in ONNX; the last byte is the name's length."""


def of_text(text: str) -> str:
    """Return the digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def of_stream(stream: BufferedReader) -> str:
    """Return the digest of the rest of an open file."""
    return hashlib.file_digest(stream, _blake2b).hexdigest()


def of_file(path: Path) -> str:
    """Return the digest of a file's contents. Raises OSError."""
    with path.open("rb") as stream:
        return of_stream(stream)


def of_onnx(path: Path) -> str:
    """Return the digest of an ONNX file and of its weights in other files. Raises OSError."""
    names = {path.name + suffix for suffix in _ONNX_COMPANIONS} | _locations(path)
    companions = [path.parent / name for name in sorted(names)]
    weights = [of_file(file) for file in companions if file.is_file()]
    return of_text(" ".join([of_file(path), *weights])) if weights else of_file(path)


def _locations(path: Path) -> set[str]:
    """Return the names of files that an ONNX file mentions; some may not be files."""
    with path.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return set()
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as contents:
            texts = [
                contents[found.end() : found.end() + _varint(found[1])]
                for found in _ONNX_LOCATION.finditer(contents)
            ]
    return {text.decode(errors="replace") for text in texts if b"\0" not in text}


def _varint(text: bytes) -> int:
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(text))


def of_callable(name: str, source: Path) -> str:
    """Return the digest of a callable's name and its module's source."""
    return of_text(f"{name} {of_file(source)}")


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)
