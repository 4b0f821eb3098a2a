"""Where the records of a text file begin: by bytes, in one streaming pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from peers.predict.errors import InputError

TextFormat = Literal["csv", "jsonl"]

BOM: Final = b"\xef\xbb\xbf"
_LONGEST: Final = 64 << 20
"""Bytes of a record; it has to fit into memory."""

# Quotes mean something at the start of a field only, for RFC 4180 as for Arrow: 5" is a text.
_FIELD: Final = re.compile(rb'"([^"]*+(?:""[^"]*+)*+)"([^,]*+)|((?!")[^,]*+)')
_ONE: Final = rb'(?:"[^"]*+(?:""[^"]*+)*+"[^,]*+|(?!")[^,]*+)'
_CLOSED: Final = re.compile(_ONE + b"(?:," + _ONE + b")*+")
_CLOSING: Final = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')


@dataclass(frozen=True, slots=True)
class Span:
    """A record: where it begins, and how many bytes it has with its end of line."""

    offset: int
    bytes: int


def records(
    stream: BinaryIO, format: TextFormat, width: int | None = None, start: int = 0
) -> Iterator[Span]:
    """The records from the offset `start` on, without blank lines.

    A CSV's record may go on over lines within quotes; with all of them it must have `width` fields
    (None: any number). Else a quote is astray, and the first line stands for a bad record alone: it
    takes none of those that follow along. Raises InputError for a record beyond 64 MiB.
    """
    stream.seek(start)
    at = start
    quotes = _OpenQuotes(stream, width)
    while line := stream.readline(_LONGEST + 1):
        size = len(line)
        if size > _LONGEST:
            raise InputError(
                f"the record at byte {at} is longer than {_LONGEST >> 20} MiB",
                "Each line must be a record.",
            )
        if format == "csv" and b'"' in line and not _CLOSED.fullmatch(line):
            size = quotes.size(line, at)
            if size == len(line):
                stream.seek(at + size)
        if line not in {b"\n", b"\r\n"} if format == "csv" else line.strip():
            yield Span(at, size)
        at += size


def fields(record: bytes) -> list[bytes] | None:
    """The fields of a CSV's record, as Arrow sees them; None: a quote is never closed."""
    found = _matched(record)
    if found is None:
        return None
    return [
        each[3] if each[1] is None else each[1].replace(b'""', b'"') + each[2] for each in found
    ]


class _OpenQuotes:
    """Finds where a quote closes that its line leaves open.

    Whether one closes does not depend on where it was opened, so lines that were passed in vain are
    not read for each of those that follow: a file of stray quotes takes no longer than another.
    """

    def __init__(self, stream: BinaryIO, width: int | None) -> None:
        self._stream = stream
        self._width = width
        self._vain = range(0)
        """Where a search may begin that finds nothing."""

    def size(self, line: bytes, at: int) -> int:
        """The bytes of the record that begins with this line; the line's own if it has no end."""
        lines, size, begin = [line], len(line), at + len(line)
        if begin in self._vain:
            return len(line)
        while following := self._stream.readline(_LONGEST):
            size += len(following)
            if size > _LONGEST:
                return len(line)
            lines.append(following)
            closing = _CLOSING.match(following)
            if closing is None:
                continue
            rest = following[closing.end() :].rstrip(b"\r\n")
            if rest and not rest.startswith(b","):
                break
            if _CLOSED.fullmatch(rest[1:]):
                found = _matched(b"".join(lines))
                return size if found and self._width in {None, len(found)} else len(line)
        self._vain = range(begin, at + size)
        return len(line)


def _matched(record: bytes) -> list[re.Match[bytes]] | None:
    body = record.removesuffix(b"\n").removesuffix(b"\r")
    found: list[re.Match[bytes]] = []
    at = 0
    while at <= len(body):
        field = _FIELD.match(body, at)
        if field is None:
            return None
        found.append(field)
        at = field.end() + 1  # the comma
    return found
