"""What a worker writes into its output pipe: frames of text, and what other programs print.

A frame has the text that a handler has printed or logged, with the execution id of its call. The
standard output of a handler that keeps its log is the same pipe, so what programs print that it has
started comes between the frames. A frame is never split: the kernel writes it as a whole.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_MARK: Final = b"\x00\x1bpeers\x01"
_HEADER: Final = struct.Struct(f"!{len(_MARK)}sQHH")
_TEXT_MAX: Final = select.PIPE_BUF - _HEADER.size


class Output(NamedTuple):
    """A part of what came through the pipe.

    `execution_id`: the first one of the handler call; None: another program has printed the text.
    `span`: 0, or how many execution ids a call has that begins here.
    """

    execution_id: int | None
    span: int
    text: bytes


def begin(execution_id: int, span: int) -> bytes:
    """Return the frame that says that a handler call begins."""
    return _HEADER.pack(_MARK, execution_id, span, 0)


def frames(execution_id: int, text: bytes) -> Iterator[bytes]:
    """Yield the frames for a text."""
    for start in range(0, len(text), _TEXT_MAX):
        part = text[start : start + _TEXT_MAX]
        yield _HEADER.pack(_MARK, execution_id, 0, len(part)) + part


class OutputParser:
    """Reads what comes through the pipe, in pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Output]:
        """Yield the parts that are complete. Iterate to the end before the next call."""
        buffer = self._buffer
        buffer += data
        while buffer:
            at = buffer.find(_MARK)
            plain = at if at >= 0 else len(buffer) - _begun(buffer)
            if plain:
                text = bytes(buffer[:plain])
                del buffer[:plain]
                yield Output(None, 0, text)
            if len(buffer) < _HEADER.size:
                return
            _, execution_id, span, length = _HEADER.unpack_from(buffer)
            stop = _HEADER.size + length
            if len(buffer) < stop:
                return
            text = bytes(buffer[_HEADER.size : stop])
            del buffer[:stop]
            yield Output(execution_id, span, text)


def _begun(buffer: bytearray) -> int:
    """Return how many bytes at the end may be the beginning of a frame."""
    longest = min(len(_MARK) - 1, len(buffer))
    return next((n for n in range(longest, 0, -1) if buffer.endswith(_MARK[:n])), 0)
