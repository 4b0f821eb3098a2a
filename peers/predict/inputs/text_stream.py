"""Read a text file as UTF-8: decompressed, decoded, without a byte order mark."""

from __future__ import annotations

import codecs
import hashlib
import io
import lzma
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

import pyarrow as pa

from peers.predict.errors import InputError
from peers.predict.inputs.files import opened

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
"""UTF-32 comes first: its marks begin with those of UTF-16."""
_LONGEST_BOM: Final = 4
_ARROW_CODECS: Final = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_XZ: Final = ".xz"
_AT_ONCE: Final = 1 << 20


class Readable(Protocol):
    """A source of bytes, which may return fewer than requested."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; empty at the end."""


class TextStream:
    """The file's text in UTF-8. `stat`: of the file. `digest()`: of its bytes on the disk."""

    def __init__(self, path: Path, raw: io.BufferedReader, encoding: str | None) -> None:
        self._path = path
        self.stat = os.fstat(raw.fileno())
        self._raw = _Hashed(raw)
        self._plain = _decompressed(self._raw, path.suffix.lower())
        self._head = b""
        self.encoding = encoding or "utf-8"
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begin()

    def read(self, size: int = _AT_ONCE, /) -> bytes:
        """Return some of the next bytes; empty at the end. Raises InputError."""
        while True:
            raw, self._head = self._head or self._bytes(size), b""
            if self._decoder is None:
                return raw
            try:
                text = self._decoder.decode(raw, final=not raw)
            except UnicodeError as error:
                raise InputError(
                    f"the input {self._path} is not in {self.encoding}: {error}",
                    "Name its encoding with --encoding.",
                ) from error
            if text or not raw:
                # bytes that the encoding lacks stay as they are, which is not UTF-8
                return text.encode("utf-8", "surrogateescape")

    def digest(self) -> str:
        """Read the file to its end, and return the digest of all of it."""
        while self._raw.read(_AT_ONCE):
            pass
        return self._raw.hash.hexdigest()

    def _begin(self) -> None:
        while len(self._head) < _LONGEST_BOM and (more := self._bytes(_AT_ONCE)):
            self._head += more
        for bom, encoding in _BOMS:
            if self._head.startswith(bom):
                self._head = self._head.removeprefix(bom)
                self.encoding = encoding
                break
        name = codecs.lookup(self.encoding).name
        if name not in {"utf-8", "ascii", "utf-8-sig"}:
            is_wide = name.startswith(("utf-16", "utf-32"))
            errors = "strict" if is_wide else "surrogateescape"
            self._decoder = codecs.getincrementaldecoder(name)(errors)

    def _bytes(self, size: int) -> bytes:
        try:
            return self._plain.read(size)
        except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
            raise InputError(
                f"the input {self._path} cannot be decompressed: {error}",
                "It is damaged, or its suffix does not match its format.",
            ) from error


@contextmanager
def open_text(path: Path, encoding: str | None = None) -> Iterator[TextStream]:
    """Open a text file, decompressed by its suffix, in `encoding` or that of its byte order mark.

    Raises InputError.
    """
    with opened(path) as raw:
        yield TextStream(path, raw, encoding)


class _Hashed(io.RawIOBase):
    """A file that computes the digest of what is read."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw
        self.hash = hashlib.sha256()  # twice as fast as other algorithms

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self._raw.read(size)
        self.hash.update(found)
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class _Whole(io.RawIOBase):
    """A decompressing stream of Arrow, read in the largest pieces that it returns."""

    def __init__(self, raw: _Hashed, codec: str) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)

    def read(self, size: int = -1) -> bytes:
        found: bytes = self._stream.read(size)
        return found


def _decompressed(raw: _Hashed, suffix: str) -> Readable:
    if suffix == _XZ:
        return lzma.LZMAFile(cast("IO[bytes]", raw))
    if suffix in _ARROW_CODECS:
        return _Whole(raw, _ARROW_CODECS[suffix])
    return raw
