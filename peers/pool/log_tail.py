"""The end of what an attempt has printed and logged."""

from __future__ import annotations

import codecs
import re
from typing import Final, NamedTuple

KEPT_BYTES: Final = 64 << 10
_OVERWRITTEN: Final = re.compile(rb"[^\n\r]*\r+(?=[^\n\r])")
"""What a progress bar has printed and then overwritten: the text before a carriage return."""
_CONTINUES: Final = range(0x80, 0xC0)
"""The bytes of a UTF-8 character behind its first one."""
_NUL: Final = b"\\0"


class KeptText(NamedTuple):
    """The last 64 KiB, and how many bytes there were, without what was overwritten."""

    text: str
    size: int

    @property
    def is_cut(self) -> bool:
        """Return whether the beginning is missing."""
        return self.size > len(self.text.encode())


class LogTail:
    """Keeps the end of a text, with NUL characters, which Postgres does not store, as escapes.

    `size` counts bytes of complete lines once and for all: only the last line can be overwritten.
    So a reader knows by the size which of the lines it has seen before.
    """

    def __init__(self) -> None:
        self.size = 0
        self._kept = bytearray()
        self._decoder: codecs.IncrementalDecoder | None = None

    def append_raw(self, data: bytes) -> None:
        """Append what another program has printed: it may be no UTF-8 at all."""
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.append(self._decoder.decode(data).encode())

    def append(self, text: bytes) -> None:
        """Append a text in UTF-8."""
        if b"\0" in text:
            text = text.replace(b"\0", _NUL)
        kept = self._kept
        if b"\r" in text or kept.endswith(b"\r"):
            self._overwrite(text)
        else:
            kept += text
            self.size += len(text)
        if len(kept) > 2 * KEPT_BYTES:  # rarely, because it copies what is kept
            del kept[:-KEPT_BYTES]

    def _overwrite(self, text: bytes) -> None:
        """Append a text with carriage returns, each of which goes back to the start of its line."""
        start = self._kept.rfind(b"\n") + 1
        old = bytes(self._kept[start:])
        new = _OVERWRITTEN.sub(b"", (old + text).replace(b"\r\n", b"\n"))
        self.size += len(new) - len(old)
        self._kept[start:] = new

    def read(self) -> KeptText:
        """Return what is kept, from the first whole character on."""
        kept = bytes(self._kept[-KEPT_BYTES:])
        if self.size > len(kept):
            start = next((n for n in range(min(4, len(kept))) if kept[n] not in _CONTINUES), 0)
            kept = kept[start:]
        # without half a character at the end, of which the rest has not come yet
        text, used = codecs.utf_8_decode(kept, "backslashreplace", False)
        return KeptText(text, self.size - len(kept) + used)
