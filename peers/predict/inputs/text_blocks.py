"""Cut a CSV into blocks of whole records, and find the records that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from peers.predict.inputs.records import (
    Marks,
    OpenQuotes,
    fields,
    has_bare_return,
    records,
)
from peers.predict.inputs.text_window import Window

BLOCK = 4 << 20
"""Bytes of a block."""
_ODD: Final = 256 << 10
"""Bytes that are read line by line after an irregular record, before the next fast try."""

_Bytes = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Block:
    """Consecutive records.

    `first`: the row of the first record. `rows`: the number of records, with bad ones. `raw`: the
    good records. `bad`: why the others cannot be read, by their index in the block. `foreign`: the
    columns of good records that are not in the file's encoding, by index; they are empty in `raw`.
    `is_counted`: whether the fields of each record were counted, or only those of the block.
    """

    first: int
    rows: int
    raw: bytes
    bad: dict[int, str] = field(default_factory=dict)
    foreign: dict[int, list[int]] = field(default_factory=dict)
    is_counted: bool = True

    @property
    def good(self) -> list[int]:
        """The indexes of the records in `raw`."""
        return [index for index in range(self.rows) if index not in self.bad]


def csv_blocks(window: Window, width: int, marks: Marks, size: int) -> Iterator[Block]:
    """Cut the rest of the window, which is behind the header, into blocks.

    The fields of a block of regular records are counted together, by its separators. Any other
    block is read line by line, which finds the same records.
    """
    quotes = OpenQuotes(window, width, marks)
    first, most = 0, size
    while True:
        window.release()
        at = window.tell()
        raw, is_last = window.peek(size)
        if not raw:
            return
        found = _simple_records(raw, first, width, marks) or _well_records(
            raw, first, width, marks, is_last=is_last
        )
        if found is None:
            size = min(most, _ODD)
            block = _line_by_line(window, first, width, marks, quotes, size)
        else:
            block = found
            size = min(most, 2 * size)
            window.seek(at + len(block.raw))
        if block.rows:
            yield block
        first += block.rows


def count_fields(block: Block, width: int, marks: Marks) -> None:
    """Count the fields of each record of a block whose fields were only counted together."""
    found = _well_records(block.raw, block.first, width, marks, is_last=True)
    if found is None:
        window = Window(BytesIO(block.raw))
        quotes = OpenQuotes(window, width, marks)
        found = _line_by_line(window, block.first, width, marks, quotes, len(block.raw))
    block.rows, block.raw, block.bad, block.foreign = (
        found.rows, found.raw, found.bad, found.foreign,
    )  # fmt: skip
    block.is_counted = True


def _simple_records(raw: bytes, first: int, width: int, marks: Marks) -> Block | None:
    """Return the records that end in the block, if it has no quotes and enough separators.

    If a record has too many fields, another one has too few. The reader notices that its last field
    is missing, at no cost.
    """
    if width == 1 or marks.quote in raw or b"\0" in raw or not raw.isascii():
        return None
    raw = raw[: raw.rfind(b"\n") + 1]
    rows = _count(raw, b"\n")
    if not rows or _count(raw, marks.separator) != rows * (width - 1):
        return None
    if b"\r" in raw and raw.count(b"\r") != raw.count(b"\r\n"):
        return None
    return Block(first, rows, raw, is_counted=False)


def _well_records(
    raw: bytes, first: int, width: int, marks: Marks, *, is_last: bool
) -> Block | None:
    """Return the records that end in the block; None if one of them is irregular."""
    has_quotes = marks.quote in raw
    if b"\0" in raw or (not raw.endswith(b"\n") and is_last and has_quotes):
        return None
    text = np.frombuffer(raw, np.uint8)
    ends, separators = text == ord("\n"), text == ord(marks.separator)
    outside: npt.NDArray[np.bool_] | None = None
    if has_quotes:
        outside = _outside(text, marks)
        if outside is None:
            return None
        ends &= outside
        separators &= outside
    lines = np.flatnonzero(ends)
    size = (
        len(raw) if is_last and not raw.endswith(b"\n") else int(lines[-1]) + 1 if len(lines) else 0
    )
    if size > (int(lines[-1]) + 1 if len(lines) else 0):
        lines = np.append(lines, size)
    if not size or not _are_all_well(raw[:size], text[:size], lines, separators[:size], width):
        return None
    if b"\r" in raw and _has_bare_return(text[:size], None if outside is None else outside[:size]):
        return None
    return Block(first, len(lines), raw[:size])


def _are_all_well(
    raw: bytes, text: _Bytes, lines: npt.NDArray[Any], separators: npt.NDArray[Any], width: int
) -> bool:
    """Return whether all lines are UTF-8, not blank, and have the right number of fields."""
    begins = np.append(0, lines[:-1] + 1)
    if width == 1:
        heads = text[np.minimum(begins, len(text) - 1)]
        if separators.any() or np.isin(heads, np.frombuffer(b" \t\r\n", np.uint8)).any():
            return False
    else:
        places = np.flatnonzero(separators)
        if len(places) != len(lines) * (width - 1):
            return False
        by_line = places.reshape(len(lines), width - 1)
        if (by_line[:, 0] < begins).any() or (by_line[:, -1] > lines).any():
            return False
    try:
        return raw.isascii() or bool(raw.decode())
    except UnicodeDecodeError:
        return False


def _outside(text: _Bytes, marks: Marks) -> npt.NDArray[np.bool_] | None:
    """Return which bytes are outside of quotes; None if a quote is within a field."""
    quotes = text == ord(marks.quote)
    inside = np.bitwise_xor.accumulate(quotes)
    places = np.flatnonzero(quotes)
    opening = places[0::2]
    closing = places[1::2]
    around = np.frombuffer(marks.separator + marks.quote + b"\n", np.uint8)
    before = text[opening[opening > 0] - 1]
    after = text[closing[closing < len(text) - 1] + 1]
    if (
        not np.isin(before, around).all()
        or not (np.isin(after, around) | (after == ord("\r"))).all()
    ):
        return None
    return ~inside


def _has_bare_return(text: _Bytes, outside: npt.NDArray[np.bool_] | None) -> bool:
    returns = text == ord("\r")
    if outside is not None:
        returns &= outside
    places = np.flatnonzero(returns)
    if len(places) and places[-1] == len(text) - 1:
        return True
    return bool((text[places + 1] != ord("\n")).any())


def _line_by_line(
    window: Window, first: int, width: int, marks: Marks, quotes: OpenQuotes, size: int
) -> Block:
    at = window.tell()
    block, good = Block(first, 0, b""), list[bytes]()
    end = at
    for span in records(window, quotes, at):
        raw = window.cut(span.offset, span.bytes)
        end = span.offset + span.bytes
        window.seek(end)
        if width == 1 and not raw.strip():  # pandas treats it as a blank line
            continue
        why = _problem(raw, width, marks)
        if why is None:
            good.append(_in_utf8(raw, block, marks))
        else:
            block.bad[block.rows] = why
        block.rows += 1
        if end - at >= size:
            break
    block.raw = b"".join(good)
    return block


def _problem(raw: bytes, width: int, marks: Marks) -> str | None:
    found = fields(raw, marks) if marks.quote in raw else None
    if marks.quote in raw and found is None:
        return "a quote is never closed, or is not closed at the end of a field"
    count = raw.count(marks.separator) + 1 if found is None else len(found)
    if count != width:
        return f"it has {count} field{'s' * (count != 1)}, but the header has {width}"
    if has_bare_return(raw, marks):
        return "it contains a carriage return outside of quotes"
    if b"\0" in raw:
        return "it contains a zero byte"
    return None


def _in_utf8(raw: bytes, block: Block, marks: Marks) -> bytes:
    """Return the record with a line end, without fields that are not UTF-8, and list these."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        found = fields(raw, marks) or []
        block.foreign[block.rows] = [n for n, value in enumerate(found) if not _is_utf8(value)]
        raw = joined([value if _is_utf8(value) else b"" for value in found], marks)
    return raw if raw.endswith(b"\n") else raw + b"\n"


def joined(values: Sequence[bytes], marks: Marks) -> bytes:
    """Return a record of these fields, each in quotes."""
    q = marks.quote
    return marks.separator.join(q + value.replace(q, q * 2) + q for value in values) + b"\n"


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _count(raw: bytes, mark: bytes) -> int:
    """Count a byte with numpy, five times as fast as bytes.count."""
    return int(np.count_nonzero(np.frombuffer(raw, np.uint8) == ord(mark)))
