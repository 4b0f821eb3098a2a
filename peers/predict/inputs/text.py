"""CSV and JSON Lines: where their records begin, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.csv

from peers.predict.errors import InputError
from peers.predict.inputs.json_columns import AS_JSON, JSON
from peers.predict.inputs.records import BOM, Span, TextFormat, fields, records
from peers.predict.inputs.typed_values import ARROW, converted, type_of

SAMPLE: Final = 1000
"""Records that the types of columns are told by."""


def header_of(stream: BinaryIO, path: str) -> tuple[list[str], int]:
    """The names of a CSV's columns, and where its records begin.

    Raises InputError where there are none, or one comes twice.
    """
    head = next(records(stream, "csv"), Span(0, 0))
    found = fields(_at(stream, head).removeprefix(BOM))
    try:
        names = [name.decode() for name in found or []]
    except UnicodeDecodeError as error:
        raise InputError(f"the header of {path} cannot be read: {error}") from error
    if any("\r" in name for name in names):
        raise InputError(
            f"the lines of {path} end in a carriage return alone", "They must end in LF or CR LF."
        )
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputError(
            f"the header of {path} is a single column, {names[0]!r}",
            "The fields of a CSV are separated by commas.",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice or names == [""]:
        raise InputError(
            f"the header of {path} " + (f"names {', '.join(twice)} twice" if twice else "is empty"),
            "The first line of a CSV must name its columns, each once.",
        )
    return names, head.offset + head.bytes


def sampled(
    stream: BinaryIO, spans: Iterable[Span], format: TextFormat, names: Sequence[str],
    id_column: str | None,
) -> list[tuple[str, str]]:  # fmt: skip
    """Names and types of the columns, by these records; those that cannot be read don't count.

    The type is that of a column's first values. Numbers are doubles, so that a later 1.5 fits too;
    only ids stay whole, and lists and objects what they are.
    """
    values: dict[str, list[Any]] = {name: [] for name in names}
    for span in spans:
        record = parsed(_at(stream, span), format, names)
        if isinstance(record, str):
            continue
        for name, value in record.items():
            if len(found := values.setdefault(name, [])) < SAMPLE:
                found.append(value)
    return [(name, type_of(column, is_id=name == id_column)) for name, column in values.items()]


def parsed(raw: bytes, format: TextFormat, names: Sequence[str]) -> dict[str, Any] | str:
    """A record's values by name; a sentence, if it cannot be read."""
    if format == "csv":
        return _split(raw, names)
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 ({error.reason} at byte {error.start} of the record)"
    except ValueError as error:
        return f"it is no JSON ({error})"
    except RecursionError:
        return "it is no JSON that can be read: it is nested too deep"
    return record if isinstance(record, dict) else "it is no JSON object"


def _split(raw: bytes, names: Sequence[str]) -> dict[str, Any] | str:
    """A CSV record's values by name; a sentence, if it cannot be read."""
    found = fields(raw)
    if found is None:
        return "a quote is never closed, or what it holds does not end where a field ends"
    if len(found) != len(names):
        return f"it has {len(found)} fields, and the header {len(names)}"
    # columns that nobody wants need not be UTF-8
    return {
        name: field.decode("utf-8", "surrogateescape")
        for name, field in zip(names, found, strict=True)
    }


def table_of(
    raw: bytes, spans: Sequence[Span], format: TextFormat, names: Sequence[str],
    wanted: Sequence[tuple[str, str]],
) -> tuple[pa.Table, dict[int, str]]:  # fmt: skip
    """These records as a table of the `wanted` columns; and why some could not be read, by index.

    `raw` holds the records; `spans` count from its start. `names` are all columns of a CSV.
    """
    if format == "jsonl":
        return _one_by_one(raw, spans, wanted)
    tables: list[pa.Table] = []
    bad: dict[int, str] = {}
    _halved(raw, spans, names, wanted, 0, tables, bad)
    return pa.concat_tables(tables).combine_chunks(), bad


def _halved(
    raw: bytes, spans: Sequence[Span], names: Sequence[str], wanted: Sequence[tuple[str, str]],
    first: int, tables: list[pa.Table], bad: dict[int, str],
) -> None:  # fmt: skip
    """All records at once, if each is well; else each half, until the bad ones stand alone.

    So a record is read in the same way whoever its neighbours are.
    """
    start, end = spans[0].offset, spans[-1].offset + spans[-1].bytes
    table = _fast(raw[start:end], names, wanted)
    if table is not None and table.num_rows == len(spans):
        tables.append(table)
    elif len(spans) == 1:
        bad[first] = _why(raw[start:end], names, wanted)
        tables.append(pa.table({name: pa.nulls(1, ARROW[type_]) for name, type_ in wanted}))
    else:
        middle = len(spans) // 2
        _halved(raw, spans[:middle], names, wanted, first, tables, bad)
        _halved(raw, spans[middle:], names, wanted, first + middle, tables, bad)


def _fast(raw: bytes, names: Sequence[str], wanted: Sequence[tuple[str, str]]) -> pa.Table | None:
    """All at once, if each record is well."""
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(raw),
            read_options=pyarrow.csv.ReadOptions(
                column_names=list(names), use_threads=False, block_size=len(raw) + 1
            ),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: ARROW[type_] for name, type_ in wanted},
                include_columns=[name for name, _ in wanted],
                null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=True,
                true_values=["true", "True"], false_values=["false", "False"],
            ),
        )  # fmt: skip
    except (pa.ArrowInvalid, UnicodeDecodeError):  # the latter: of the message about a value
        return None


def _why(raw: bytes, names: Sequence[str], wanted: Sequence[tuple[str, str]]) -> str:
    record = parsed(raw, "csv", names)
    if isinstance(record, str):
        return record
    if any("\r" in value for value in record.values()):
        return "a carriage return stands within it, outside of quotes"
    for name, _ in wanted:
        if not _is_utf8(record[name]):
            return f"the column {name!r} is not UTF-8"
    found = converted(record, wanted, is_csv=True)
    return found if isinstance(found, str) else "its values do not fit their columns"


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # what could not be decoded came as surrogates
        return False
    return True


def _one_by_one(
    raw: bytes, spans: Sequence[Span], wanted: Sequence[tuple[str, str]]
) -> tuple[pa.Table, dict[int, str]]:
    columns: dict[str, list[Any]] = {name: [] for name, _ in wanted}
    bad: dict[int, str] = {}
    for index, span in enumerate(spans):
        record = parsed(raw[span.offset : span.offset + span.bytes], "jsonl", [])
        values: list[Any] | str = (
            record if isinstance(record, str) else converted(record, wanted, is_csv=False)
        )
        if isinstance(values, str):
            bad[index] = values
            values = [None] * len(wanted)
        for (name, _), value in zip(wanted, values, strict=True):
            columns[name].append(value)
    fields = [
        pa.field(name, ARROW[type_], metadata=AS_JSON if type_ == JSON else None)
        for name, type_ in wanted
    ]
    return pa.table([columns[name] for name, _ in wanted], schema=pa.schema(fields)), bad


def _at(stream: BinaryIO, span: Span) -> bytes:
    stream.seek(span.offset)
    return stream.read(span.bytes)
