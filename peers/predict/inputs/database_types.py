"""The Arrow types of a Postgres query's columns, by what the server says, not by their values."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import pyarrow as pa

_KNOWN: Final[dict[str, pa.DataType]] = {
    "bool": pa.bool_(), "int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64(),
    "oid": pa.int64(), "float4": pa.float32(), "float8": pa.float64(), "numeric": pa.float64(),
    "bytea": pa.binary(), "date": pa.date32(), "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", tz="UTC"),
    "interval": pa.duration("us"),
}  # fmt: skip
_AS_THEY_ARE: Final = frozenset(_KNOWN) - {"numeric"}
_JSON: Final = frozenset({"json", "jsonb"})

Plain = Callable[[Any], Any]


def columns_of(
    description: Sequence[Any], id_column: str | None
) -> tuple[pa.Schema, list[Plain | None]]:
    """The schema, and for each column what makes its values plain (None: they are).

    Numerics are doubles, as ids texts; UUIDs, JSON and types that Arrow lacks are texts; arrays are
    lists.
    """
    fields: list[tuple[str, pa.DataType]] = []
    plain: list[Plain | None] = []
    for column in description:
        kind, convert = _column(column.type_code)
        if column.name == id_column and convert is float:  # no digit of an id may be lost
            kind, convert = pa.string(), str
        fields.append((column.name, kind))
        plain.append(convert)
    return pa.schema(fields), plain


def _column(oid: int) -> tuple[pa.DataType, Plain | None]:
    from psycopg import adapters

    info = adapters.types.get(oid)
    name = info.name if info is not None else "text"
    kind, convert = _KNOWN.get(name, pa.string()), _converter(name)
    if info is not None and oid == info.array_oid:
        return pa.list_(kind), convert and _each(convert)
    return kind, convert


def _converter(name: str) -> Plain | None:
    if name in _AS_THEY_ARE:
        return None
    if name == "numeric":
        return float
    return _dumped if name in _JSON else str


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _each(convert: Plain) -> Plain:
    def plain(values: Any) -> Any:
        if isinstance(values, list):  # there may be lists in it
            return [plain(value) for value in values]
        return None if values is None else convert(values)

    return plain
