"""CSV and JSON Lines: where their records begin, and what is in them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal

import pyarrow as pa
import pyarrow.csv

from peers.predict.errors import InputError

SAMPLE: Final = 1000
"""Records that the types of columns are told by."""
_NUMBER: Final = "double"
_TEXT: Final = "string"
_TRUTH: Final = "bool"
_TYPES: Final = {_NUMBER: pa.float64(), _TEXT: pa.string(), _TRUTH: pa.bool_(), "int64": pa.int64()}

TextFormat = Literal["csv", "jsonl"]


@dataclass(frozen=True, slots=True)
class Span:
    """A record: where it begins, and how many bytes it has with its end of line."""

    offset: int
    bytes: int


def records(stream: BinaryIO, format: TextFormat) -> Iterator[Span]:
    """The records of a file, without the header of a CSV, and without blank lines.

    A line break within quotes does not end a record: there is an odd number of quotes before it.
    """
    start = end = quotes = 0
    header = format == "csv"
    for line in stream:
        end += len(line)
        if format == "csv":
            quotes += line.count(b'"')
        if quotes % 2:
            continue
        if header:
            header = False
        elif end - start > len(line) or line.strip():
            yield Span(start, end - start)
        start = end
    if quotes % 2 and not header:
        yield Span(start, end - start)  # its quotes never end: a bad record, told by who reads it


def header_of(stream: BinaryIO, path: str) -> list[str]:
    """The names of a CSV's columns. Raises InputError where there are none, or one comes twice."""
    stream.seek(0)
    head = b""
    for line in stream:
        head += line
        if head.count(b'"') % 2 == 0:
            break
    try:
        names = next(csv.reader(io.StringIO(head.decode("utf-8-sig"), newline="")), [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the header of {path} cannot be read: {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise InputError(
            f"the header of {path} " + (f"names {', '.join(twice)} twice" if twice else "is empty"),
            "The first line of a CSV must name its columns, each once.",
        )
    return names


def sampled(
    stream: BinaryIO, spans: Sequence[Span], format: TextFormat, names: Sequence[str],
    id_column: str | None,
) -> list[tuple[str, str]]:  # fmt: skip
    """Names and types of the columns, by these records; those that cannot be read don't count.

    Numbers are doubles, so that a later 1.5 fits too; only ids stay whole.
    """
    values: dict[str, list[Any]] = {name: [] for name in names}
    for span in spans:
        record = parsed(_at(stream, span), format, names)
        if isinstance(record, str):
            continue
        for name, value in record.items():
            values.setdefault(name, []).append(value)
    return [(name, _type(column, name == id_column)) for name, column in values.items()]


def parsed(raw: bytes, format: TextFormat, names: Sequence[str]) -> dict[str, Any] | str:
    """A record's values by name; a sentence, if it cannot be read."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 ({error.reason} at byte {error.start} of the record)"
    if format == "jsonl":
        try:
            record = json.loads(text)
        except ValueError as error:
            return f"it is no JSON ({error})"
        return record if isinstance(record, dict) else "it is no JSON object"
    try:
        [fields] = csv.reader(io.StringIO(text, newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        return f"it is no CSV record ({error})"
    if len(fields) != len(names):
        return f"it has {len(fields)} fields, and the header {len(names)}"
    return dict(zip(names, fields, strict=True))


def table_of(
    raw: bytes, spans: Sequence[Span], format: TextFormat, names: Sequence[str],
    wanted: Sequence[tuple[str, str]],
) -> tuple[pa.Table, dict[int, str]]:  # fmt: skip
    """These records as a table of the `wanted` columns; and why some could not be read, by index.

    `raw` holds the records; `spans` count from its start. `names` are all columns of a CSV.
    """
    if format == "csv":
        table = _fast(raw, names, wanted)
        if table is not None and table.num_rows == len(spans):
            return table, {}
    return _one_by_one(raw, spans, format, names, wanted)


def _fast(raw: bytes, names: Sequence[str], wanted: Sequence[tuple[str, str]]) -> pa.Table | None:
    """All at once, if each record is well."""
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(raw),
            read_options=pyarrow.csv.ReadOptions(column_names=list(names), use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: _TYPES[type_] for name, type_ in wanted},
                include_columns=[name for name, _ in wanted],
                null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=True,
                true_values=["true", "True"], false_values=["false", "False"],
            ),
        )  # fmt: skip
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None


def _one_by_one(
    raw: bytes, spans: Sequence[Span], format: TextFormat, names: Sequence[str],
    wanted: Sequence[tuple[str, str]],
) -> tuple[pa.Table, dict[int, str]]:  # fmt: skip
    columns: dict[str, list[Any]] = {name: [] for name, _ in wanted}
    bad: dict[int, str] = {}
    for index, span in enumerate(spans):
        record = parsed(raw[span.offset : span.offset + span.bytes], format, names)
        values: list[Any] | str = record if isinstance(record, str) else _converted(record, wanted)
        if isinstance(values, str):
            bad[index] = values
            values = [None] * len(wanted)
        for (name, _), value in zip(wanted, values, strict=True):
            columns[name].append(value)
    arrays = {name: pa.array(columns[name], _TYPES[type_]) for name, type_ in wanted}
    return pa.table(arrays), bad


def _converted(record: dict[str, Any], wanted: Sequence[tuple[str, str]]) -> list[Any] | str:
    values: list[Any] = []
    for name, type_ in wanted:
        value = record.get(name)
        try:
            values.append(None if value is None or value == "" else _CONVERT[type_](value))
        except (TypeError, ValueError, OverflowError):
            return f"the column {name!r} holds {value!r}, which is no {_SAID[type_]}"
    return values


def _number(value: Any) -> float:
    if isinstance(value, bool | list | dict):
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool | list | dict) or (isinstance(value, float) and value % 1):
        raise TypeError
    return int(value)


def _truth(value: Any) -> bool:
    if value in {True, "true", "True"}:
        return True
    if value in {False, "false", "False"}:
        return False
    raise ValueError


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_CONVERT: Final = {_NUMBER: _number, "int64": _whole, _TRUTH: _truth, _TEXT: _text}
_SAID: Final = {_NUMBER: "number", "int64": "whole number", _TRUTH: "truth value", _TEXT: "text"}


def _type(column: Sequence[Any], is_id: bool) -> str:
    """The narrowest type that nine in ten values fit: some rows may be bad."""
    values = [value for value in column if value is not None and value != ""]
    if not values:
        return _NUMBER
    for type_ in ("int64",) if is_id else (_TRUTH, _NUMBER):
        fitting = sum(_fits(value, type_) for value in values)
        if fitting == len(values) or (not is_id and fitting >= 0.9 * len(values)):
            return type_
    return _TEXT


def _fits(value: Any, type_: str) -> bool:
    try:
        _CONVERT[type_](value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _at(stream: BinaryIO, span: Span) -> bytes:
    stream.seek(span.offset)
    return stream.read(span.bytes)
