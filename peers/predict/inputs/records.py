"""Find where the records of a CSV begin, by bytes, in one streaming pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from peers.predict.errors import InputError

LONGEST: Final = 64 << 20
"""The most bytes of a record, which has to fit into memory."""


class Seekable(Protocol):
    """A stream of lines."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line with its end, or its first `limit` bytes."""

    def seek(self, offset: int, /) -> object:
        """Go to this offset."""


@dataclass(frozen=True, slots=True)
class Span:
    """A record: where it begins, and its number of bytes with the line end."""

    offset: int
    bytes: int


class Marks(NamedTuple):
    """The separator of a CSV's fields, and the quote around fields that contain it."""

    separator: bytes = b","
    quote: bytes = b'"'


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Patterns for quotes, which count only at the start of a field (RFC 4180): 5" is a text.

    `field`: one field. `closed`: a line whose quotes are all closed. `closing`: a line up to the
    quote that closes a quote of an earlier line.
    """

    field: re.Pattern[bytes]
    closed: re.Pattern[bytes]
    closing: re.Pattern[bytes]


@lru_cache
def _patterns(marks: Marks) -> _Patterns:
    s, q = re.escape(marks.separator), re.escape(marks.quote)
    quoted = b"[^%b]*+(?:%b%b[^%b]*+)*+%b" % (q, q, q, q, q)
    one = b"(?:%b%b[^%b]*+|(?!%b)[^%b]*+)" % (q, quoted, s, q, s)
    return _Patterns(
        field=re.compile(
            b"%b([^%b]*+(?:%b%b[^%b]*+)*+)%b([^%b]*+)|((?!%b)[^%b]*+)" % (q, q, q, q, q, q, s, q, s)
        ),
        closed=re.compile(one + b"(?:" + s + one + b")*+"),
        closing=re.compile(quoted),
    )


class OpenQuotes:
    """Finds where a quote closes that its line leaves open.

    That does not depend on where the quote was opened. So lines that were searched without success
    are not searched again: a file of unclosed quotes takes no longer than another.
    """

    def __init__(self, stream: Seekable, width: int | None, marks: Marks) -> None:
        self._stream = stream
        self._width = width
        self._marks = marks
        self._patterns = _patterns(marks)
        self._vain = range(0)
        """From here on a search finds nothing."""

    def size(self, line: bytes, at: int) -> int:
        """Return the size of the record that begins with this line; the line's if it has no end."""
        if self._marks.quote not in line or self._patterns.closed.fullmatch(line):
            return len(line)
        size = self._searched(line, at)
        if size == len(line):
            self._stream.seek(at + size)
        return size

    def _searched(self, line: bytes, at: int) -> int:
        lines, size, begin = [line], len(line), at + len(line)
        if begin in self._vain:
            return len(line)
        while following := self._stream.readline(LONGEST):
            size += len(following)
            if size > LONGEST:
                return len(line)
            lines.append(following)
            closing = self._patterns.closing.match(following)
            if closing is None:
                continue
            rest = following[closing.end() :].rstrip(b"\r\n")
            if rest and not rest.startswith(self._marks.separator):
                break
            if self._patterns.closed.fullmatch(rest[1:]):
                found = fields(b"".join(lines), self._marks)
                return size if found and self._width in {None, len(found)} else len(line)
        self._vain = range(begin, at + size)
        return len(line)


def records(stream: Seekable, quotes: OpenQuotes, start: int = 0) -> Iterator[Span]:
    """Yield the records from the offset `start` on, without blank lines.

    A record may continue over several lines within quotes. It must then have the number of fields
    in `quotes`. Otherwise a quote is misplaced, and only the first line is a bad record. Raises
    InputError for a record beyond 64 MiB.
    """
    stream.seek(start)
    at = start
    while line := stream.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise InputError(
                f"the record at byte {at} is longer than {LONGEST >> 20} MiB",
                "Each record must be a line.",
            )
        size = quotes.size(line, at)
        if line not in {b"\n", b"\r\n"}:
            yield Span(at, size)
        at += size


def fields(record: bytes, marks: Marks = Marks()) -> list[bytes] | None:  # noqa: B008  # immutable
    """Return the fields of a record, as pandas reads them; None if a quote is never closed."""
    found = _matched(record, marks)
    if found is None:
        return None
    q = marks.quote
    return [each[3] if each[1] is None else each[1].replace(q * 2, q) + each[2] for each in found]


def has_bare_return(record: bytes, marks: Marks) -> bool:
    """Return whether a carriage return is outside of quotes, where pandas ends a record."""
    if b"\r" not in record.removesuffix(b"\n").removesuffix(b"\r"):
        return False
    return any(b"\r" in (each[2] or each[3] or b"") for each in _matched(record, marks) or ())


def _matched(record: bytes, marks: Marks) -> list[re.Match[bytes]] | None:
    field = _patterns(marks).field
    body = record.removesuffix(b"\n").removesuffix(b"\r")
    found: list[re.Match[bytes]] = []
    at = 0
    while at <= len(body):
        match = field.match(body, at)
        if match is None:
            return None
        found.append(match)
        at = match.end() + 1  # the separator
    return found
