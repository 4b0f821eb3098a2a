"""Cut JSON into blocks of rows: an object per line, an array of objects, or several documents."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from peers.predict.errors import InputError
from peers.predict.inputs.records import LONGEST
from peers.predict.inputs.text_window import Window

Layout: TypeAlias = Literal["lines", "array", "documents"]

_BLOCK: Final = 4 << 20
"""Bytes of lines that are read together."""
_ROWS: Final = 10_000
"""Rows of a block of a file without lines."""
_HEAD: Final = 1 << 20
_BLANK: Final = " \t\r\n"
_NO_OBJECT: Final = "it is not a JSON object"
_LINES: Final = msgspec.json.Decoder()
_ONE: Final = json.JSONDecoder()


@dataclass(slots=True)
class JsonBlock:
    """Consecutive rows; a bad row is an empty object.

    `first`: the row of the first one. `bad`: why rows cannot be read, by their index in the block.
    """

    first: int
    records: list[dict[str, Any]]
    bad: dict[int, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.records)


def layout_of(window: Window) -> Layout:
    """Find out the layout of the file from its beginning."""
    head, is_last = window.peek(_HEAD)
    body = head.lstrip()
    line, _, rest = body.partition(b"\n")
    if body[:1] == b"[":
        return "lines" if rest.strip() and _is_json(line) else "array"
    if body[:1] != b"{" or _is_json(line):
        return "lines"
    size = _HEAD
    while not is_last and size < LONGEST and not _has_document(head):
        size *= 8
        head, is_last = window.peek(size)
    return "documents" if _has_document(head) else "lines"


def json_blocks(path: Path, window: Window, layout: Layout) -> Iterator[JsonBlock]:
    """Cut the rest of the window into blocks. Raises InputError for an incomplete document."""
    if layout == "lines":
        yield from _line_blocks(path, window)
        return
    values = _values(path, window, is_array=layout == "array")
    first = 0
    while found := list(islice(values, _ROWS)):
        yield _block(first, found)
        first += len(found)


def _line_blocks(path: Path, window: Window) -> Iterator[JsonBlock]:
    first, size = 0, _BLOCK
    while True:
        window.release()
        at = window.tell()
        raw, is_last = window.peek(size)
        end = len(raw) if is_last else raw.rfind(b"\n") + 1
        if not raw:
            return
        if not end:
            if size > LONGEST:
                raise InputError(
                    f"a line of {path} is longer than {LONGEST >> 20} MiB",
                    "Each line must be a record.",
                )
            size *= 2
            continue
        block = _lines(first, raw[:end])
        window.seek(at + end)
        size = _BLOCK
        if block.rows:
            yield block
        first += block.rows


def _lines(first: int, raw: bytes) -> JsonBlock:
    lines = [line for line in raw.split(b"\n") if line.strip()]
    try:
        found = _LINES.decode_lines(raw)
        if len(found) == len(lines):
            return _block(first, found)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # fall back to Python's reader, line by line: it accepts NaN
    block = JsonBlock(first, [])
    for index, line in enumerate(lines):
        record = _parsed(line)
        if isinstance(record, str):
            block.bad[index] = record
            record = {}
        block.records.append(record)
    return block


def _block(first: int, values: list[Any]) -> JsonBlock:
    bad = {index: _NO_OBJECT for index, value in enumerate(values) if not isinstance(value, dict)}
    for index in bad:
        values[index] = {}
    return JsonBlock(first, values, bad)


def _parsed(raw: bytes) -> dict[str, Any] | str:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 ({error.reason} at byte {error.start} of the record)"
    except ValueError as error:
        return f"it is not JSON ({error})"
    except RecursionError:
        return "it cannot be read as JSON: it is nested too deep"
    return record if isinstance(record, dict) else _NO_OBJECT


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _has_document(head: bytes) -> bool:
    try:
        _ONE.raw_decode(head.decode("utf-8", "replace").lstrip(_BLANK))
    except (ValueError, RecursionError):
        return False
    return True


def _values(path: Path, window: Window, *, is_array: bool) -> Iterator[Any]:
    """Yield the elements of the array, or the documents."""
    text = _Text(path, window)
    if is_array:
        text.take("[")
        if text.next() == "]":
            text.take("]")
            text.require_end()
            return
    while text.next():
        yield text.value()
        if is_array and text.next() == "]":
            text.take("]")
            text.require_end()
            return
        if is_array:
            text.take(",")
    if is_array:
        raise text.broken("it ends within the array")


class _Text:
    """The text of a document, read piece by piece."""

    def __init__(self, path: Path, window: Window) -> None:
        self._path, self._window = path, window
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._passed = 0
        """Characters before the text."""
        self._is_whole = False

    def next(self) -> str:
        """Return the next character that is not a blank, without reading it; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Read this character. Raises InputError for another one."""
        found = self.next()
        if found != character:
            raise self.broken(f"expected {character!r} instead of {found!r}")
        self._at += 1

    def value(self) -> Any:
        """Read the next value. Raises InputError if there is none."""
        size = 0
        while True:
            try:
                value, end = _ONE.raw_decode(self._text, self._at)
            except RecursionError:
                raise self.broken("it is nested too deep") from None
            except ValueError as error:
                if len(self._text) - self._at > LONGEST or not self._more(size):
                    raise self.broken(str(error)) from error
                size = 2 * len(self._text)
                continue
            if end < len(self._text) or not self._more():
                self._at = end
                return value

    def require_end(self) -> None:
        """Raise InputError if anything follows the array."""
        if self.next():
            raise self.broken("something follows its end")

    def broken(self, why: str) -> InputError:
        """Return an error that names the present position."""
        return InputError(
            f"the input {self._path} is a JSON document that cannot be read beyond "
            f"character {self._passed + self._at}: {why}",
            "Correct it, or write one object per line.",
        )

    def _more(self, size: int = 0) -> bool:
        """Read until the text has more than `size` characters, or the file ends."""
        before = len(self._text) - self._at
        self._passed += self._at
        pieces = [self._text[self._at :]]
        self._at, had = 0, before
        while not self._is_whole and (had <= size or had == before):
            raw, self._is_whole = self._window.peek(_HEAD)
            self._window.seek(self._window.tell() + len(raw))
            self._window.release()
            try:
                pieces.append(self._decoder.decode(raw, final=self._is_whole))
            except UnicodeDecodeError as error:
                raise InputError(
                    f"the input {self._path} is not in UTF-8: {error}",
                    "Name its encoding, such as --encoding latin-1.",
                ) from error
            had += len(pieces[-1])
        self._text = "".join(pieces)
        return had > before
