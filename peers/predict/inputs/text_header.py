"""Read the header of a CSV, with the column names that pandas gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers.predict.errors import InputError
from peers.predict.inputs.records import Marks, OpenQuotes, Span, fields, records
from peers.predict.inputs.text_options import TextOptions
from peers.predict.inputs.text_pandas import PandasReader
from peers.predict.inputs.text_window import Window

_OTHERS: Final = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}
_TRIED: Final = 100
"""Records that are checked for a common number of fields."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header. `bytes`: where the records begin. `has_index`: the first column is an index."""

    names: list[str]
    bytes: int
    has_index: bool
    notes: dict[str, str]


def read_header(path: Path, window: Window, marks: Marks, options: TextOptions) -> Header:
    """Read the header. Raises InputError if it is missing or does not match the file."""
    spans = records(window, OpenQuotes(window, None, marks))
    head = next(spans, Span(0, 0))
    raw = window.cut(head.offset, head.bytes)
    written = _written(path, raw, marks)
    end = head.offset + head.bytes
    _check_width(path, window, end, len(written), marks)
    names = PandasReader(marks.separator.decode(), options, len(written)).names(raw)
    notes = {
        name: f"pandas' name for a column that the header calls {was!r}"
        for name, was in zip(names, written, strict=True)
        if name != was
    }
    return Header(names, end, has_index=not written[0], notes=notes)


def _written(path: Path, raw: bytes, marks: Marks) -> list[str]:
    try:
        names = [name.decode() for name in fields(raw, marks) or []]
    except UnicodeDecodeError as error:
        raise InputError(
            f"the header of {path} is not in UTF-8: {error}",
            "Name the file's encoding, such as --encoding latin-1.",
        ) from error
    if any("\r" in name.replace("\r\n", "") for name in names):
        raise InputError(
            f"the lines of {path} end in a carriage return alone", "They must end in LF or CR LF."
        )
    if "\0" in "".join(names):
        raise InputError(
            f"the header of {path} holds zero bytes",
            "If it is UTF-16 without a byte order mark: --encoding utf-16-le.",
        )
    if not names or names == [""]:
        raise InputError(
            f"the header of {path} is empty", "The first line of a CSV must name its columns."
        )
    if names[0].startswith("sep=") and len(raw.strip()) <= len("sep=;"):
        raise InputError(
            f"the first line of {path} is {raw.strip().decode()}, which is for Excel",
            "Delete that line, and name the separator with --csv-separator.",
        )
    _check_separator(path, names, marks.separator.decode())
    return names


def _check_separator(path: Path, names: list[str], separator: str) -> None:
    found = [mark for mark in _OTHERS if mark in names[0] and mark != separator]
    if len(names) > 1 or not found:
        return
    mark = max(found, key=names[0].count)
    option = "tab" if mark == "\t" else f"'{mark}'"
    decimal = " and, where it writes 0,5 for a half, --csv-decimal ','" if mark == ";" else ""
    raise InputError(
        f"the header of {path} is a single column, {names[0]!r}",
        f"The default separator is {_OTHERS.get(separator, repr(separator))}: "
        f"add --csv-separator {option}{decimal}.",
    )


def _check_width(path: Path, window: Window, start: int, width: int, marks: Marks) -> None:
    """Raise InputError if all rows have one field more than the header, as R writes them."""
    widths: set[int] = set()
    spans = records(window, OpenQuotes(window, width + 1, marks), start)
    for number, span in enumerate(spans):
        found = fields(window.cut(span.offset, span.bytes), marks)
        widths.add(0 if found is None else len(found))
        if number >= _TRIED or widths != {width + 1}:
            break
    if widths == {width + 1}:
        raise InputError(
            f"the rows of {path} have {width + 1} fields, but its header has {width}",
            "Name the first column in the header as well. If each row ends in a separator, "
            "let the header end in one.",
        )
