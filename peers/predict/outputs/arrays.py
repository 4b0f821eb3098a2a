"""Convert values that models return to Arrow arrays, one for each type."""

from __future__ import annotations

import decimal
import enum
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from peers.predict.outputs.families import (
    NOTHING,
    NUMBER,
    UNKNOWN,
    family_of_class,
    family_of_value,
    plain_type,
    shown,
)
from peers.predict.outputs.widening import converted

_MATRIX: Final = 2
_ERRORS: Final = (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError)
_CHECKED: Final = frozenset(
    {"bytes", "date", "timestamp", "instant", "time", "duration", "decimal"}
)
"""Families whose values Arrow may alter in lists and dicts, such as a date among timestamps."""


class Group(NamedTuple):
    """Values of one type, and their positions."""

    places: np.ndarray[Any, Any]
    values: pa.Array


class Found(NamedTuple):
    """Groups of values by type, and descriptions by position of values without an Arrow type."""

    groups: list[Group]
    problems: dict[int, str]


def arrays_of(values: Any) -> Found:
    """Return the values of a list, a numpy or an Arrow array, grouped by type."""
    places = np.arange(len(values))
    if isinstance(values, pa.Array):
        return Found([Group(places, _plain(values))], {})
    if isinstance(values, np.ndarray):
        try:
            return Found([Group(places, _of_numpy(values))], {})
        except _ERRORS:
            values = list(values)
    return _of_list(values)


def _plain(array: pa.Array) -> pa.Array:
    return converted(array, plain_type(array.type))


def _of_numpy(array: np.ndarray[Any, Any]) -> pa.Array:
    if array.ndim == _MATRIX:
        width = array.shape[1]
        values = pa.array(np.ascontiguousarray(array).reshape(-1))
        offsets = np.arange(0, len(values) + 1, width, dtype=np.int32) if width else None
        if offsets is None:
            offsets = np.zeros(len(array) + 1, dtype=np.int32)
        return _plain(pa.ListArray.from_arrays(offsets, values))
    return _plain(pa.array(array))


def _of_list(values: list[Any]) -> Found:
    classes = set(map(type, values))
    families = {family_of_class(one) for one in classes} - {NOTHING}
    simple = families <= {NUMBER} or families in ({"text"}, {"boolean"}, {"bytes"}, {"date"})
    if simple and not any(one.__module__.startswith("pandas") for one in classes):
        try:
            array = _exact(next(iter(families), NOTHING), values)
            return Found([Group(np.arange(len(values)), array)], {})
        except _ERRORS:
            pass  # such as integers beyond 64 bits: convert one by one
    return _by_family(values)


def _by_family(values: list[Any]) -> Found:
    families: dict[str, list[int]] = defaultdict(list)
    nothing: list[int] = []
    for place, value in enumerate(values):
        family = family_of_value(value)
        (nothing if family == NOTHING else families[family]).append(place)
    groups: list[Group] = []
    problems: dict[int, str] = {}
    for family, places in families.items():
        found, bad = _of_family(family, places, values)
        groups += found
        problems |= bad
    if nothing:
        groups.append(Group(np.array(nothing), pa.nulls(len(nothing))))
    return Found(groups, problems)


def _of_family(family: str, places: Sequence[int], values: Sequence[Any]) -> Found:
    chosen = [_simple(values[place]) for place in places]
    try:
        return Found([Group(np.array(places), _exact(family, chosen))], {})
    except _ERRORS:
        pass
    by_type: dict[pa.DataType, list[tuple[int, pa.Array]]] = defaultdict(list)
    problems: dict[int, str] = {}
    for place, value in zip(places, chosen, strict=True):
        try:
            if family == UNKNOWN:
                raise TypeError
            one = _exact(family, [value])
        except _ERRORS:
            problems[place] = (
                f"{shown(value)} of the type {type(value).__name__}, which the output cannot hold"
            )
        else:
            by_type[one.type].append((place, one))
    groups = [
        Group(np.array([place for place, _ in some]), pa.concat_arrays([one for _, one in some]))
        for some in by_type.values()
    ]
    return Found(groups, problems)


def _exact(family: str, values: list[Any]) -> pa.Array:
    """Return an array of these values. Raises Arrow's errors, and ValueError if it alters one."""
    if family == NUMBER:
        return _plain(_numbers(values))
    if any(type(one).__module__.startswith("pandas") for one in values):
        import pandas as pd

        array = pa.array(pd.Series(values), from_pandas=True)  # Arrow itself drops nanoseconds
    else:
        array = pa.array(values)
    if family in {"list", "dict"}:
        if _families_within(values) & _CHECKED and not _same(array.to_pylist(), values):
            raise ValueError("Arrow would alter a value")
    elif family == "time" and any(one.tzinfo is not None for one in values):
        raise ValueError("Arrow has no times with zones")
    return _plain(array)


def _numbers(values: list[Any]) -> pa.Array:
    classes = set(map(type, values))
    if any(issubclass(one, decimal.Decimal) for one in classes) and any(
        issubclass(one, float | np.floating) for one in classes
    ):
        raise ValueError("Arrow would round decimals to floating-point numbers")
    try:
        return pa.array(values)
    except OverflowError:
        return pa.array(values, pa.uint64())


def _simple(value: Any) -> Any:
    """Return the value in a form for Arrow, such as lists for arrays of several dimensions."""
    if isinstance(value, np.ndarray):
        return value[()] if value.ndim == 0 else [_simple(one) for one in value]
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, dict):
        return {key: _simple(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simple(one) for one in value]
    return value


def _families_within(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {family for one in value.values() for family in _families_within(one)}
    if isinstance(value, list):
        return {family for one in value for family in _families_within(one)}
    return {"decimal" if isinstance(value, decimal.Decimal) else family_of_value(value)}


def _same(found: Any, value: Any) -> bool:
    """Return whether Arrow's value equals the original; missing keys of a dict are null there."""
    if isinstance(value, dict):
        return all(_same(one, value.get(key)) for key, one in found.items())
    if isinstance(value, list):
        return all(_same(a, b) for a, b in zip(found, value, strict=True))
    family = family_of_value(value)
    is_nan = value != value
    return (
        family == NOTHING or is_nan or (family_of_value(found) == family and bool(found == value))
    )
