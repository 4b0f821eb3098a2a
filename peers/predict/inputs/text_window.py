"""A stream that can seek back to bytes that were not released."""

from __future__ import annotations

from typing import Final

from peers.predict.inputs.text_stream import Readable

_AT_ONCE: Final = 1 << 20


class Window:
    """Keeps a stream's bytes from the last `release` on; offsets count from its start."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._kept = b""
        self._first = 0
        """The offset of the first byte in memory."""
        self._at = 0
        self._is_whole = False
        """Whether the stream has ended."""

    def peek(self, size: int) -> tuple[bytes, bool]:
        """Return at least `size` of the next bytes, and whether they are the last; do not move."""
        begin = self._at - self._first
        self._fill(begin + size + 1)
        rest = self._kept[begin:]
        # avoids a copy of bytes that are in memory
        found = rest if len(rest) <= 2 * size else rest[:size]
        return found, self._is_whole and len(found) == len(rest)

    def readline(self, limit: int) -> bytes:
        """Return the next line with its end, or its first `limit` bytes."""
        begin = searched = self._at - self._first
        while True:
            end = self._kept.find(b"\n", searched, begin + limit)
            if end >= 0 or len(self._kept) >= begin + limit:
                break
            searched = len(self._kept)
            if not self._fill(searched + 1):
                break
        found = self._kept[begin : begin + limit if end < 0 else end + 1]
        self._at += len(found)
        return found

    def seek(self, offset: int) -> None:
        """Go to this offset, which must not be released."""
        self._at = offset

    def tell(self) -> int:
        """Return the offset of the next byte."""
        return self._at

    def cut(self, offset: int, size: int) -> bytes:
        """Return bytes that were read and not released."""
        begin = offset - self._first
        return self._kept[begin : begin + size]

    def release(self) -> None:
        """Free the bytes before the next one."""
        self._fill(self._at - self._first)
        self._kept = self._kept[self._at - self._first :]
        self._first = self._at

    def _fill(self, size: int) -> bool:
        """Read until `size` bytes are in memory; return whether there are more than before."""
        pieces = [self._kept]
        before = kept = len(self._kept)
        while kept < size and not self._is_whole:
            more = self._stream.read(max(_AT_ONCE, size - kept))
            self._is_whole = not more
            pieces.append(more)
            kept += len(more)
        if kept > before:
            self._kept = b"".join(pieces)
        return kept > before
