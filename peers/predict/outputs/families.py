"""Group types into families that one output column can hold, and name them in messages."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa

from peers.predict.texts import shortened

NOTHING: Final = "nothing"
NUMBER: Final = "number"
UNKNOWN: Final = "unknown"
_SHOWN: Final = 40
_SMALLEST_DECIMAL: Final = 128

_NAMES: Final = {
    "boolean": ("a boolean", "booleans"),
    NUMBER: ("a number", "numbers"),
    "text": ("a text", "texts"),
    "bytes": ("bytes", "bytes"),
    "timestamp": ("a timestamp without a zone", "timestamps without a zone"),
    "instant": ("a timestamp with a zone", "timestamps with a zone"),
    "date": ("a date", "dates"),
    "time": ("a time", "times"),
    "duration": ("a duration", "durations"),
    "list": ("a list", "lists"),
    "dict": ("a dict", "dicts"),
    NOTHING: ("nothing", "null"),
}

_CLASSES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (type(None), NOTHING),
    ((bool, np.bool_), "boolean"),
    (np.timedelta64, "duration"),  # before int: numpy treats it as an integer
    ((int, float, np.integer, np.floating, decimal.Decimal), NUMBER),
    ((str, uuid.UUID), "text"),
    ((bytes, bytearray, memoryview), "bytes"),
    (datetime.datetime, "timestamp"),
    (np.datetime64, "timestamp"),
    (datetime.date, "date"),
    (datetime.time, "time"),
    (datetime.timedelta, "duration"),
    (dict, "dict"),
    ((list, tuple, set, frozenset, np.ndarray), "list"),
)


@lru_cache(maxsize=1024)
def family_of_class(kind: Any) -> str:
    """Return the family of Python values of this class, ignoring zones of timestamps."""
    if kind.__name__ in {"NAType", "NaTType"}:  # the missing values of pandas
        return NOTHING
    if issubclass(kind, enum.Enum) and not issubclass(kind, str | int):
        return UNKNOWN
    return next((family for known, family in _CLASSES if issubclass(kind, known)), UNKNOWN)


def _class_of(value: Any) -> Any:
    return type(value)


def family_of_value(value: Any) -> str:
    """Return the family of a Python value."""
    family = family_of_class(_class_of(value))
    if family == "timestamp" and getattr(value, "tzinfo", None) is not None:
        return "instant"
    return family


_ARROW: Final = (
    (pa.types.is_null, NOTHING),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_integer, NUMBER),
    (pa.types.is_floating, NUMBER),
    (pa.types.is_decimal, NUMBER),
    (pa.types.is_string, "text"),
    (pa.types.is_binary, "bytes"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time"),
    (pa.types.is_duration, "duration"),
    (pa.types.is_list, "list"),
    (pa.types.is_struct, "dict"),
)


def family_of_type(kind: pa.DataType) -> str:
    """Return the family of a plain Arrow type; see `plain_type`."""
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "instant"
    return next((family for check, family in _ARROW if check(kind)), UNKNOWN)


def one_of(family: str) -> str:
    """Return the name of one value of the family."""
    return _NAMES[family][0] if family in _NAMES else family


def many_of(family: str) -> str:
    """Return the name of several values of the family."""
    return _NAMES[family][1] if family in _NAMES else family


def shown(value: Any) -> str:
    """Return a value in the form of error messages."""
    return shortened(repr(value), _SHOWN)


_PLAIN: Final = (
    (pa.types.is_large_string, pa.string()),
    (pa.types.is_string_view, pa.string()),
    (pa.types.is_large_binary, pa.binary()),
    (pa.types.is_binary_view, pa.binary()),
    (pa.types.is_fixed_size_binary, pa.binary()),
    (pa.types.is_date64, pa.date32()),
    (pa.types.is_time32, pa.time32("ms")),
)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the equivalent of this type that Parquet preserves."""
    types = pa.types
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(one.name, plain_type(one.type)) for one in kind])
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    if types.is_decimal(kind) and kind.bit_width < _SMALLEST_DECIMAL:
        return pa.decimal128(kind.precision, kind.scale)
    return next((plain for check, plain in _PLAIN if check(kind)), kind)


def cannot_be_written(kind: pa.DataType) -> str | None:
    """Return why Parquet cannot hold values of this plain type; None if it can."""
    if pa.types.is_struct(kind):
        if not kind.num_fields:
            return "a dict without keys, which Parquet cannot hold"
        return next((why for one in kind if (why := cannot_be_written(one.type))), None)
    if pa.types.is_list(kind):
        return cannot_be_written(kind.value_type)
    if family_of_type(kind) == UNKNOWN:
        return f"a value of the type {kind}, which the output cannot hold"
    return None
