"""Digests tell a model that has changed since its run was planned."""

from __future__ import annotations

import hashlib
from io import BufferedReader
from pathlib import Path
from typing import Final

_DIGEST_BYTES: Final = 32
_ONNX_COMPANIONS: Final = (".data", "_data")
"""What exporters append to a model's name for weights that they keep outside of it."""


def of_text(text: str) -> str:
    """The digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def of_stream(stream: BufferedReader) -> str:
    """The digest of what is left in an open file."""
    return hashlib.file_digest(stream, _blake2b).hexdigest()


def of_file(path: Path) -> str:
    """The digest of a file's contents. Raises OSError."""
    with path.open("rb") as stream:
        return of_stream(stream)


def of_onnx(path: Path) -> str:
    """The digest of an ONNX file, and of the weights beside it that go by its name."""
    beside = [path.with_name(path.name + suffix) for suffix in _ONNX_COMPANIONS]
    weights = [of_file(file) for file in beside if file.is_file()]
    return of_text(" ".join([of_file(path), *weights])) if weights else of_file(path)


def of_callable(name: str, source: Path) -> str:
    """The digest of a callable's name and its module's source."""
    return of_text(f"{name} {of_file(source)}")


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST_BYTES)
