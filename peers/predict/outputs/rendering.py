"""Render rows of the output as CSV and JSON Lines, column by column.

CSV: null is an empty field, an empty text is `""`; NaN and infinities are `nan`, `inf`, `-inf`;
lists and dicts are JSON. JSON: null stands for NaN and infinities, which JSON lacks; decimals are
numbers. Both: floating-point numbers read back as the same doubles; bytes are base64; dates and
timestamps are ISO 8601, with the offset where they have a zone; durations are `26:03:04.5`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from peers.predict.column_metadata import is_json
from peers.predict.outputs.families import plain_type
from peers.predict.outputs.widening import PER_SECOND, converted

_AT_ONCE: Final = 65_536
_TEXT: Final = pa.large_string()


def csv_header(names: list[str]) -> bytes:
    """Return the first line of a CSV file."""
    return b",".join(_field(name) for name in names) + b"\n"


def csv_lines(table: pa.Table) -> Iterator[memoryview]:
    """Yield blocks of lines for the rows."""
    return _lines(table, _csv_line)


def json_lines(table: pa.Table) -> Iterator[memoryview]:
    """Yield blocks of lines for the rows."""
    return _lines(table, _json_line)


def _lines(table: pa.Table, line: Callable[[pa.RecordBatch], pa.Array]) -> Iterator[memoryview]:
    for first in range(0, table.num_rows, _AT_ONCE):
        for batch in table.slice(first, _AT_ONCE).combine_chunks().to_batches():
            yield _content(line(batch))


def _content(lines: pa.Array) -> memoryview:
    _, offsets, content = lines.buffers()
    ends = np.frombuffer(offsets, np.int64)[lines.offset : lines.offset + len(lines) + 1]
    return memoryview(content)[ends[0] : ends[-1]]


def _joined(parts: list[pa.Array | str], separator: str = "") -> pa.Array:
    texts = [pa.scalar(one, _TEXT) if isinstance(one, str) else one for one in parts]
    return pc.binary_join_element_wise(*texts, pa.scalar(separator, _TEXT))


def _csv_line(batch: pa.RecordBatch) -> pa.Array:
    return _joined([_joined([_csv(column) for column in batch.columns], ","), "\n"])


def _json_line(batch: pa.RecordBatch) -> pa.Array:
    parts: list[pa.Array | str] = []
    for place, field in enumerate(batch.schema):
        parts.append(("{" if place == 0 else ", ") + json.dumps(field.name, ensure_ascii=False))
        parts.append(": ")
        column = batch.column(place)
        parts.append(_or_null(column.cast(_TEXT)) if is_json(field) else _json(_plain(column)))
    return _joined([*parts, "}\n"])


def _plain(column: pa.Array) -> pa.Array:
    return converted(column, plain_type(column.type))


def _or_null(texts: pa.Array) -> pa.Array:
    return pc.fill_null(texts, pa.scalar("null", _TEXT))


# ----------------------------------------------------------------------------------------- CSV


def _csv(column: pa.Array) -> pa.Array:
    array = _plain(column)
    if _is_nested(array.type):
        texts = pc.if_else(array.is_valid(), _json(array), pa.scalar(None, _TEXT))
    else:
        texts = _texts(array)
    if _is_nested(array.type) or pa.types.is_string(array.type):
        texts = _quoted(texts)
    return pc.fill_null(texts, pa.scalar("", _TEXT))


def _quoted(texts: pa.Array) -> pa.Array:
    special = pc.or_(pc.match_substring_regex(texts, r'[",\r\n]'), pc.equal(texts, ""))
    if not pc.any(special).as_py():
        return texts
    return pc.if_else(special, _joined(['"', pc.replace_substring(texts, '"', '""'), '"']), texts)


def _field(name: str) -> bytes:
    lines = _quoted(pa.array([name], _TEXT))
    return str(lines[0].as_py()).encode()


# ---------------------------------------------------------------------------------------- JSON


def _json(array: pa.Array) -> pa.Array:
    """Return JSON for each value of an array without nulls."""
    types = pa.types
    if types.is_struct(array.type):
        texts = _json_struct(array)
    elif types.is_list(array.type):
        texts = _json_list(array)
    elif types.is_null(array.type):
        texts = pa.nulls(len(array), _TEXT)
    elif types.is_floating(array.type):
        texts = pc.if_else(pc.is_finite(array), _texts(array), pa.scalar(None, _TEXT))
    elif types.is_string(array.type):
        texts = _joined(['"', _escaped(_texts(array)), '"'])
    elif any(check(array.type) for check in (types.is_integer, types.is_boolean, types.is_decimal)):
        texts = _texts(array)
    else:
        texts = _joined(['"', _texts(array), '"'])
    return _or_null(texts)


def _json_struct(array: pa.Array) -> pa.Array:
    parts: list[pa.Array | str] = []
    for place, (field, values) in enumerate(zip(array.type, array.flatten(), strict=True)):
        name = json.dumps(field.name, ensure_ascii=False)
        parts += [("{" if place == 0 else ", ") + name + ": ", _json(values)]
    texts = _joined([*parts, "}"])
    return pc.if_else(array.is_valid(), texts, pa.scalar(None, _TEXT))


def _json_list(array: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(array), 0)
    ends = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))])
    values = _json(array.flatten())
    lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values)
    texts = _joined(["[", pc.binary_join(lists, pa.scalar(", ", _TEXT)), "]"])
    return pc.if_else(array.is_valid(), texts, pa.scalar(None, _TEXT))


def _escaped(texts: pa.Array) -> pa.Array:
    if not pc.any(pc.match_substring_regex(texts, r'["\\\x00-\x1f]')).as_py():
        return texts
    for plain, escaped in (
        ("\\", "\\\\"),
        ('"', '\\"'),
        ("\n", "\\n"),
        ("\r", "\\r"),
        ("\t", "\\t"),
    ):
        texts = pc.replace_substring(texts, plain, escaped)
    if not pc.any(pc.match_substring_regex(texts, r"[\x00-\x1f]")).as_py():
        return texts
    controls = {code: f"\\u{code:04x}" for code in range(32)}
    return pa.array([t if t is None else t.translate(controls) for t in texts.to_pylist()], _TEXT)


# -------------------------------------------------------------------------------- plain values


def _is_nested(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_list(kind))


def _texts(array: pa.Array) -> pa.Array:
    """Return the text of each value that is neither a list nor a struct; nulls stay."""
    types = pa.types
    if types.is_floating(array.type):
        return _floats(array)
    if types.is_binary(array.type):
        return pa.array(
            [None if one is None else base64.b64encode(one).decode() for one in array.to_pylist()],
            _TEXT,
        )
    if types.is_duration(array.type):
        counts = array.view(pa.int64()).to_pylist()
        per_second = PER_SECOND[array.type.unit]
        return pa.array(
            [None if count is None else _duration(count, per_second) for count in counts], _TEXT
        )
    if types.is_timestamp(array.type):
        texts = pc.replace_substring(array.cast(_TEXT), " ", "T", max_replacements=1)
        return pc.replace_substring_regex(texts, r"([+-]\d\d)(\d\d)$", r"\1:\2")
    return array.cast(_TEXT)


def _floats(array: pa.Array) -> pa.Array:
    # the shortest digits of a float32 read back as another double
    texts = array.cast(pa.float64()).cast(_TEXT)
    whole = pc.match_substring_regex(texts, r"^-?\d+$")
    if not pc.any(whole).as_py():
        return texts
    return pc.if_else(whole, _joined([texts, ".0"]), texts)


def _duration(count: int, per_second: int) -> str:
    """Return a duration as hours:minutes:seconds, which pandas and DuckDB read."""
    seconds, fraction = divmod(abs(count), per_second)
    digits = len(str(per_second)) - 1
    after = f".{fraction:0{digits}d}" if fraction else ""
    minus = "-" if count < 0 else ""
    hours, minutes = divmod(seconds // 60, 60)
    return f"{minus}{hours:02}:{minutes:02}:{seconds % 60:02}{after}"
