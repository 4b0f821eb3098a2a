"""Convert values of text files to a requested type; say why a value cannot be converted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from peers.predict.column_metadata import is_json
from peers.predict.inputs.json_columns import json_text
from peers.predict.inputs.text_options import TextOptions
from peers.predict.inputs.text_pandas import PandasReader
from peers.predict.texts import shortened

_SHOWN: Final = 100
"""Characters of a value in a reason."""
_TRUE: Final = pa.array(["True", "TRUE", "true", "1"])
_FALSE: Final = pa.array(["False", "FALSE", "false", "0"])
_INT64: Final = (-(1 << 63), (1 << 63) - 1)

Converted: TypeAlias = tuple[pa.Array, dict[int, str]]
"""The values with null for those that cannot be converted, and the reasons by index."""


@dataclass(frozen=True, slots=True)
class _Sort:
    """A sort of values.

    `convert`: converts texts, none of which is missing; raises one of _ERRORS if one does not fit.
    `may_fit`: which of the texts may be converted.
    """

    convert: Callable[[pa.Array], pa.Array]
    may_fit: Callable[[pa.Array], pa.Array]


_ERRORS: Final = (pa.ArrowException, ValueError, TypeError, OverflowError)


def from_texts(texts: pa.Array, field: pa.Field, reader: PandasReader) -> Converted:
    """Convert texts of a CSV; nulls stay null."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        values, bad = from_texts(texts, field.with_type(kind.value_type), reader)
        return values.dictionary_encode().cast(kind), bad
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), kind), {}
    present = pc.is_valid(texts)
    given = texts.filter(present)
    values, failed = _by_halves(given, _sort_of(field, reader))
    values = values.cast(kind)
    if texts.null_count:
        places = pc.if_else(present, pc.subtract(pc.cumulative_sum(present.cast("int64")), 1), None)
        values = values.take(places)
    if not failed:
        return values, {}
    rows = pc.indices_nonzero(present).to_pylist()
    return values, {rows[index]: misfit(field, given[index].as_py()) for index in failed}


def from_values(values: Sequence[Any], field: pa.Field) -> Converted:
    """Convert values of JSON one by one; None becomes null."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    plain = pa.field(field.name, kind, metadata=field.metadata)
    convert = partial(_one_value, field=plain, reader=PandasReader(",", TextOptions(), 1))
    found: list[Any] = []
    bad: dict[int, str] = {}
    for index, value in enumerate(values):
        try:
            found.append(None if value is None else convert(value))
        except _ERRORS:
            found.append(None)
            bad[index] = misfit(field, value)
    array = pa.array(found, kind)
    return (array.dictionary_encode().cast(field.type) if kind != field.type else array), bad


def misfit(field: pa.Field, value: Any) -> str:
    """Return the message for a value that its column cannot hold."""
    shown = shortened(repr(value), _SHOWN)
    return f"the column {field.name!r} holds {shown}, which is not {value_name(field)}"


def value_name(field: pa.Field) -> str:
    """Return the name of the field's values, with an article."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if is_json(field):
        return "JSON"
    if pa.types.is_integer(kind):
        return "an integer" if kind == pa.int64() else f"an integer of the type {kind}"
    if pa.types.is_floating(kind):
        return "a number"
    if pa.types.is_boolean(kind):
        return "a boolean"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "a text"
    return f"a {kind}"


def _by_halves(texts: pa.Array, sort: _Sort) -> tuple[pa.Array, list[int]]:
    """Convert the texts, and bisect where it fails; return the indexes of those that do not fit."""
    failed: list[int] = []
    pieces: list[pa.Array | None] = []
    may_fit = sort.may_fit(texts)

    def go(first: int, count: int) -> None:
        piece = texts.slice(first, count)
        try:
            pieces.append(sort.convert(piece))
        except _ERRORS:
            if count == 1:
                failed.append(first)
                pieces.append(None)
                return
            go(first, count // 2)
            go(first + count // 2, count - count // 2)

    if pc.any(pc.invert(may_fit)).as_py():  # many may fail: find them at once
        places = pc.indices_nonzero(may_fit)
        others = pc.indices_nonzero(pc.invert(may_fit)).to_pylist()
        found, more = _by_halves(texts.take(places), _Sort(sort.convert, _any_fits))
        spread = np.full(len(texts), -1)
        spread[places.to_numpy()] = np.arange(len(places))
        failed = sorted([*others, *(places[index].as_py() for index in more)])
        return found.take(pa.array(spread, mask=spread < 0)), failed
    if len(texts):
        go(0, len(texts))
    kind = next((piece.type for piece in pieces if piece is not None), pa.null())
    whole = [pa.nulls(1, kind) if piece is None else piece for piece in pieces]
    return pa.concat_arrays(whole) if whole else pa.nulls(0), failed


def _any_fits(texts: pa.Array) -> pa.Array:
    return pa.array(np.ones(len(texts), np.bool_))


def _sort_of(field: pa.Field, reader: PandasReader) -> _Sort:
    kind, options = field.type, reader.options
    point = re.escape(options.decimal)
    digits = f"[0-9{re.escape(options.thousands or '')}]"
    if pa.types.is_floating(kind):
        number = rf"({digits}+{point}?[0-9]*|{point}[0-9]+)([eE][+-]?[0-9]+)?"
        return _Sort(reader.doubles, _matching(rf"^\s*[+-]?({number}|(?i:inf|infinity|nan))\s*$"))
    if pa.types.is_integer(kind):
        whole = _matching(rf"^[ \t]*[+-]?{digits}+({point}0*)?[ \t]*$")
        return _Sort(partial(_integers, kind=kind, options=options), whole)
    if pa.types.is_boolean(kind):
        return _Sort(lambda texts: pc.is_in(texts, _TRUE.cast(texts.type)), _are_truths)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _Sort(partial(_times, kind=kind), partial(_are_times, kind=kind))
    return _Sort(lambda texts: texts.cast(kind), _any_fits)


def _matching(shape: str) -> Callable[[pa.Array], pa.Array]:
    return partial(pc.match_substring_regex, pattern=shape)


def _integers(texts: pa.Array, kind: pa.DataType, options: TextOptions) -> pa.Array:
    plain = pc.utf8_trim(texts, " \t")
    if options.thousands:
        plain = pc.replace_substring(plain, options.thousands, "")
    plain = pc.replace_substring_regex(plain, rf"{re.escape(options.decimal)}0*$", "")
    return pc.utf8_ltrim(plain, "+").cast(kind)


def _are_truths(texts: pa.Array) -> pa.Array:
    return pc.is_in(texts, pa.concat_arrays([_TRUE, _FALSE]).cast(texts.type))


def _are_times(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    found = pd.to_datetime(
        pd.Series(texts.to_pylist()), format="ISO8601", utc=True, errors="coerce"
    )
    zone = pc.match_substring_regex(texts, r"[0-9:](Z|[+-][0-9]{2}(:?[0-9]{2})?)$")
    is_date = pc.match_substring_regex(texts, r"^\s*[0-9]{4}-?[0-9]{2}(-?[0-9]{2})?\s*$")
    has_zone = pc.and_(zone, pc.invert(is_date))
    is_zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    fits = has_zone if is_zoned else pc.invert(has_zone)
    return pc.and_(pa.array(found.notna().to_numpy()), fits)


def _times(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return times in ISO 8601; those with a zone need a type with a zone."""
    is_zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    found = pd.to_datetime(pd.Series(texts.to_pylist()), format="ISO8601", utc=is_zoned)
    if found.dtype.kind != "M":
        raise ValueError
    array = pa.array(found)
    if pa.types.is_timestamp(array.type) and (array.type.tz is not None) != is_zoned:
        raise ValueError
    return array.cast(kind)


def _one_value(value: Any, field: pa.Field, reader: PandasReader) -> Any:
    kind = field.type
    if is_json(field):
        return json_text(value)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _text(value)
    if isinstance(value, str):
        values, failed = _by_halves(pa.array([value]), _sort_of(field, reader))
        if failed:
            raise ValueError
        return values.cast(kind)[0].as_py()
    if isinstance(value, bool) != pa.types.is_boolean(kind) or isinstance(value, list | dict):
        raise TypeError  # a number is not a boolean: 2 may follow 0 and 1
    if isinstance(value, int) and pa.types.is_floating(kind):
        return float(value)
    return pa.scalar(value).cast(kind).as_py()


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value)
    text.encode()  # JSON can spell half a surrogate pair
    return text
