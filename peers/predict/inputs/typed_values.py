"""Values of text files, and the types that columns of them have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from peers.predict.inputs.json_columns import JSON, json_text

_SHOWN: Final = 100
"""Characters of a value in a reason."""
_NUMBER: Final = "double"
_TEXT: Final = "string"
_TRUTH: Final = "bool"
_WHOLE: Final = "int64"

ARROW: Final = {
    _NUMBER: pa.float64(), _TEXT: pa.string(), _TRUTH: pa.bool_(), _WHOLE: pa.int64(),
    JSON: pa.string(),
}  # fmt: skip
"""The types, by the names that they go by."""


def type_of(column: Sequence[Any], *, is_id: bool) -> str:
    """The narrowest type that nine in ten values fit: some rows may be bad."""
    values = [value for value in column if value is not None and value != ""]
    if not values:
        return _NUMBER
    if is_id:
        return _WHOLE if all(_is_whole(value) for value in values) else _TEXT
    for type_ in (_TRUTH, _NUMBER):
        fitting = sum(_fits(value, type_) for value in values)
        if fitting >= 0.9 * len(values):
            return type_
    return JSON if any(isinstance(value, dict | list) for value in values) else _TEXT


def converted(
    record: dict[str, Any], wanted: Sequence[tuple[str, str]], *, is_csv: bool
) -> list[Any] | str:
    """The record's values of these columns, in their types; or a sentence about one of another.

    An empty field of a CSV is no value; an empty text of JSON is one, where texts are wanted.
    """
    values: list[Any] = []
    for name, type_ in wanted:
        value = record.get(name)
        try:
            empty = value is None or (value == "" and (is_csv or type_ not in {_TEXT, JSON}))
            values.append(None if empty else _CONVERT[type_](value))
        except (TypeError, ValueError, OverflowError):
            shown = repr(value)
            if len(shown) > _SHOWN:
                shown = f"{shown[:_SHOWN]}…"
            return f"the column {name!r} holds {shown}, which is no {_SAID[type_]}"
    return values


def _number(value: Any) -> float:
    if isinstance(value, bool | list | dict) or (isinstance(value, str) and "_" in value):
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool | list | dict) or (isinstance(value, float) and value % 1):
        raise TypeError
    if isinstance(value, str) and "_" in value:
        raise ValueError
    whole = int(value)
    if not -(1 << 63) <= whole < 1 << 63:
        raise OverflowError
    return whole


def _truth(value: Any) -> bool:
    if isinstance(value, bool):  # a number is none: 0 and 1 may be followed by 2
        return value
    if isinstance(value, str) and value in {"true", "True", "false", "False"}:
        return value in {"true", "True"}
    raise ValueError


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text.encode()  # JSON can spell half a character, which is none
    return text


_CONVERT: Final = {
    _NUMBER: _number, _WHOLE: _whole, _TRUTH: _truth, _TEXT: _text, JSON: json_text,
}  # fmt: skip
_SAID: Final = {
    _NUMBER: "number",
    _WHOLE: "whole number",
    _TRUTH: "truth value",
    _TEXT: "text",
    JSON: "JSON",
}


def _is_whole(value: Any) -> bool:
    """Whether an id is a whole number, and no text of digits such as 007."""
    return _fits(value, _WHOLE) and str(int(value)) == str(value)


def _fits(value: Any, type_: str) -> bool:
    try:
        _CONVERT[type_](value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
