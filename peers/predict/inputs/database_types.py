"""Map the columns of a Postgres query to Arrow types, by the server's types, not by values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import psycopg
import pyarrow as pa
from psycopg import adapters
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.string import TextLoader

from peers.predict.column_metadata import AS_JSON

_KNOWN: Final[dict[str, pa.DataType]] = {
    "bool": pa.bool_(),
    # as with pandas.read_sql: one type for integers and one for other numbers
    "int2": pa.int64(), "int4": pa.int64(), "int8": pa.int64(), "oid": pa.int64(),
    "float4": pa.float64(), "float8": pa.float64(), "numeric": pa.float64(),
    "text": pa.string(), "varchar": pa.string(), "bpchar": pa.string(), "name": pa.string(),
    "json": pa.string(), "jsonb": pa.string(), "uuid": pa.string(),
    "bytea": pa.binary(), "date": pa.date32(), "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"), "timestamptz": pa.timestamp("us", tz="UTC"),
    "interval": pa.duration("us"),
}  # fmt: skip
"""By their names in Postgres. Values of all other types are read as the server's texts."""
_JSON: Final = ("json", "jsonb")

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a query. `oid`: its type in Postgres. `convert`: a conversion, or None."""

    field: pa.Field
    oid: int
    is_known: bool
    convert: Convert | None

    def array(self, values: Sequence[Any]) -> pa.Array:
        """Return the driver's values in the column's type."""
        if self.convert is not None:
            values = [None if value is None else self.convert(value) for value in values]
        if self.oid == _FLOAT4:
            # 0.1::float4 reads as 0.1 from its text, as with pandas.read_sql
            return pa.array(values, pa.float32()).cast(pa.string()).cast(pa.float64())
        return pa.array(values, self.field.type)


def column_of(name: str, oid: int, id_column: str | None) -> Column:
    """Return the column of this type; numerics become doubles, or texts if they are ids.

    Types that Arrow lacks become texts. Arrays of types that it has become lists.
    """
    info = adapters.types.get(oid)
    type_name = info.name if info is not None else ""
    type_ = _KNOWN.get(type_name)
    if info is None or type_ is None:
        return Column(pa.field(name, pa.string()), oid, is_known=False, convert=None)
    convert = _CONVERT.get(type_name)
    if oid == info.array_oid:
        type_ = pa.list_(type_)
        convert = convert and _each(convert)
    elif type_name == "numeric" and name == id_column:  # no digit of an id may be lost
        type_, convert = pa.string(), _digits
    metadata = AS_JSON if type_name in _JSON and oid == info.oid else None
    return Column(pa.field(name, type_, metadata=metadata), oid, is_known=True, convert=convert)


def read_as_texts(context: AdaptContext, columns: Sequence[Column]) -> None:
    """Make the driver return JSON, and values of unknown types, as the server's texts."""
    assert context.adapters is not None
    for name in _JSON:
        context.adapters.register_loader(name, TextLoader)
    context.adapters.register_loader("json", _JsonBinary)
    context.adapters.register_loader("jsonb", _JsonbBinary)
    for column in columns:
        if not column.is_known:
            context.adapters.register_loader(column.oid, TextLoader)


class _JsonBinary(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        """Return the text."""
        return bytes(data).decode()


class _JsonbBinary(_JsonBinary):
    def load(self, data: Buffer) -> str:
        """Return the text, which follows the version of the format."""
        if data[0] != 1:
            raise psycopg.NotSupportedError(f"unknown version of jsonb: {data[0]}")
        return bytes(data[1:]).decode()


def _digits(value: Decimal) -> str:
    return format(value, "f")


def _each(convert: Convert) -> Convert:
    def converted(values: Any) -> Any:
        if isinstance(values, list):  # it may contain lists
            return [converted(value) for value in values]
        return None if values is None else convert(values)

    return converted


_CONVERT: Final[dict[str, Convert]] = {"numeric": float, "uuid": str}
_FLOAT4: Final = 700
