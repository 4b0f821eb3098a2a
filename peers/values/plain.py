"""The types that JSON has itself: they need no conversion, only a check."""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

from peers.values.codec import NULL, Codec, ConversionError, error_at, find_unwritable, parts_of


class AnyCodec(Codec):
    """Any JSON value. Other values are written by their own type, and are read back as JSON."""

    name = "a JSON value"
    native = Any
    is_plain = True
    holds_any = True
    rank = 9

    def matches(self, value: object) -> bool:  # noqa: ARG002
        """Return True."""
        return True

    def dump(self, value: Any) -> Any:
        """Return `value` as JSON. Raises `ConversionError`, for bytes too."""
        if value is None or type(value) in (str, int, bool):
            return value
        found = find_unwritable(value)
        if found is not None:
            raise error_at(*found)
        return jsonable(value)

    def load(self, data: Any) -> Any:
        """Return `data`."""
        return data


@functools.cache
def _pydantic_core() -> Any:
    """Import it at the first use: a worker may need it for no value at all."""
    return importlib.import_module("pydantic_core")


def jsonable(value: object) -> Any:
    """Return a copy of JSON types; dates, UUIDs, models and the like become text and objects.

    Bytes become base64. Raises `ConversionError` for a type that has no JSON form.
    """
    core = _pydantic_core()
    try:
        return core.to_jsonable_python(value, bytes_mode="base64")
    except core.PydanticSerializationError as error:
        for key, part in parts_of(value):
            try:
                jsonable(part)
            except ConversionError as inner:
                raise inner.within(key) from None
        raise ConversionError(f"cannot be written as JSON: {error}") from None
    except (ValueError, RecursionError) as error:  # it contains itself, say
        raise ConversionError(f"cannot be written as JSON: {error}") from None


class NoneCodec(Codec):
    """None."""

    name = "None"
    json_types = frozenset({NULL})
    native = NULL
    is_plain = True
    rank = 0

    def matches(self, value: object) -> bool:
        """Return whether it is None."""
        return value is None

    def dump(self, value: Any) -> Any:
        """Return None."""
        return self.load(value)

    def load(self, data: Any) -> Any:
        """Return None."""
        if data is not None:
            raise self.mismatch(data)


class BoolCodec(Codec):
    """True or False."""

    name = "bool"
    json_types = frozenset({bool})
    native = bool
    remedy = "; pass True or False"
    is_plain = True
    rank = 0

    def matches(self, value: object) -> bool:
        """Return whether it is a bool."""
        return isinstance(value, bool)

    def dump(self, value: Any) -> Any:
        """Return the bool."""
        return self.load(value)

    def load(self, data: Any) -> Any:
        """Return the bool."""
        if not isinstance(data, bool):
            raise self.mismatch(data)
        return data


class IntCodec(Codec):
    """A whole number of any size; a bool is none."""

    name = "int"
    json_types = frozenset({int})
    native = int
    remedy = "; pass a whole number"
    is_plain = True
    rank = 0

    def matches(self, value: object) -> bool:
        """Return whether it is an int."""
        return isinstance(value, int) and not isinstance(value, bool)

    def dump(self, value: Any) -> Any:
        """Return the int."""
        return self.load(value)

    def load(self, data: Any) -> Any:
        """Return the int."""
        if not isinstance(data, int) or isinstance(data, bool):
            raise self.mismatch(data)
        return data


class FloatCodec(Codec):
    """A finite number; an int becomes a float."""

    name = "float"
    json_types = frozenset({float, int})
    native = float
    remedy = "; pass a number"
    makes_floats = True
    is_plain = True
    rank = 1

    def matches(self, value: object) -> bool:
        """Return whether it is a float."""
        return isinstance(value, float)

    def dump(self, value: Any) -> Any:
        """Return the number as a float."""
        return self.load(value)

    def load(self, data: Any) -> Any:
        """Return the number as a float."""
        if not isinstance(data, float | int) or isinstance(data, bool):
            raise self.mismatch(data)
        try:
            number = float(data)
        except OverflowError:
            raise ConversionError("expected float, got an int that is too large for one") from None
        if not math.isfinite(number):
            raise ConversionError(f"JSON has no {number}; pass None or a finite number")
        return number


class StrCodec(Codec):
    """A str."""

    name = "str"
    json_types = frozenset({str})
    native = str
    remedy = "; pass text"
    is_plain = True
    rank = 0

    def matches(self, value: object) -> bool:
        """Return whether it is a str."""
        return isinstance(value, str)

    def dump(self, value: Any) -> Any:
        """Return the str."""
        return self.load(value)

    def load(self, data: Any) -> Any:
        """Return the str."""
        if not isinstance(data, str):
            raise self.mismatch(data)
        return data
