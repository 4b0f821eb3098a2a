"""Find common types without loss.

`wide` says that some of the present values are integers beyond 2**53, or timestamps and durations
beyond the range of nanoseconds (the years 1677 to 2262), which a wider type cannot hold.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from peers.predict.outputs.families import family_of_type, plain_type

_EXACT: Final = 2**53
_UNITS: Final = ("s", "ms", "us", "ns")
PER_SECOND: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_MOST_NANOSECONDS: Final = 2**63 - 1
_MOST_DIGITS: Final = 76
_DIGITS_128: Final = 38
_DIGITS_OF_INTEGERS: Final = {8: 3, 16: 5, 32: 10, 64: 20}


def common_type(now: pa.DataType, new: pa.DataType, *, wide: bool) -> pa.DataType | None:
    """Return the common type of both that holds all values of `now`; None without one."""
    types = pa.types
    if now == new or types.is_null(new):
        return now
    if types.is_null(now):
        return new
    if types.is_list(now) and types.is_list(new):
        inner = common_type(now.value_type, new.value_type, wide=wide)
        return None if inner is None else pa.list_(inner)
    if types.is_struct(now) and types.is_struct(new):
        return _common_struct(now, new, wide=wide)
    if types.is_timestamp(now) and types.is_timestamp(new) and _zoned(now) == _zoned(new):
        unit = _unit(now, new, wide=wide)
        return None if unit is None else pa.timestamp(unit, now.tz)
    if types.is_duration(now) and types.is_duration(new):
        unit = _unit(now, new, wide=wide)
        return None if unit is None else pa.duration(unit)
    if types.is_time(now) and types.is_time(new):
        return max(now, new, key=lambda kind: _UNITS.index(kind.unit))
    return _common_number(now, new, wide=wide)


def _zoned(kind: pa.DataType) -> bool:
    return kind.tz is not None


def _unit(now: pa.DataType, new: pa.DataType, *, wide: bool) -> str | None:
    finer = max(now.unit, new.unit, key=_UNITS.index)
    return None if wide and finer != now.unit else finer


def _common_struct(now: pa.DataType, new: pa.DataType, *, wide: bool) -> pa.DataType | None:
    fields = {one.name: one.type for one in now}
    for one in new:
        both = common_type(fields.get(one.name, pa.null()), one.type, wide=wide)
        if both is None:
            return None
        fields[one.name] = both
    return pa.struct(list(fields.items()))


def _common_number(now: pa.DataType, new: pa.DataType, *, wide: bool) -> pa.DataType | None:
    types = pa.types
    whole = [types.is_integer(one) for one in (now, new)]
    if all(whole):
        return _common_integer(now, new)
    floating = [types.is_floating(one) for one in (now, new)]
    if all(floating):
        return max(now, new, key=lambda kind: kind.bit_width)
    if any(whole) and any(floating):
        return None if whole[0] and wide else pa.float64()
    decimal = [types.is_decimal(one) for one in (now, new)]
    if any(decimal) and all(a or b for a, b in zip(decimal, whole, strict=True)):
        return _common_decimal(now, new)
    return None


def _common_integer(now: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    signed = [pa.types.is_signed_integer(one) for one in (now, new)]
    if all(signed) or not any(signed):
        return max(now, new, key=lambda kind: kind.bit_width)
    unsigned = new if signed[0] else now
    bits = max(2 * unsigned.bit_width, now.bit_width, new.bit_width)
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def _common_decimal(now: pa.DataType, new: pa.DataType) -> pa.DataType | None:
    before = max(_whole_digits(one) for one in (now, new))
    after = max(0 if pa.types.is_integer(one) else one.scale for one in (now, new))
    digits = before + after
    if digits <= _DIGITS_128:
        return pa.decimal128(digits, after)
    return pa.decimal256(digits, after) if digits <= _MOST_DIGITS else None


def _whole_digits(kind: pa.DataType) -> int:
    if pa.types.is_integer(kind):
        return _DIGITS_OF_INTEGERS[kind.bit_width]
    return int(kind.precision - kind.scale)


def is_wide(array: pa.Array) -> bool:
    """Return whether a wider type would lose some of these values."""
    types = pa.types
    kind = array.type
    if types.is_list(kind):
        return is_wide(array.flatten())
    if types.is_struct(kind):
        return any(is_wide(one) for one in array.flatten())
    if kind in (pa.int64(), pa.uint64()):
        return _is_beyond(array, _EXACT)
    if types.is_timestamp(kind) or types.is_duration(kind):
        most = _MOST_NANOSECONDS * PER_SECOND[kind.unit] // PER_SECOND["ns"]
        return kind.unit != "ns" and _is_beyond(array.view(pa.int64()), most)
    return False


def _is_beyond(array: pa.Array, most: int) -> bool:
    found: dict[str, Any] = pc.min_max(array).as_py()
    return found["min"] is not None and (found["min"] < -most or found["max"] > most)


def converted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return the array in this type. Raises pyarrow's errors if a value would change."""
    types = pa.types
    if array.type == kind:
        return array
    if array.null_count == len(array):
        return pa.nulls(len(array), kind)
    if isinstance(array, pa.ExtensionArray):
        return converted(array.storage, kind)
    if types.is_dictionary(array.type):
        return converted(array.dictionary_decode(), kind)
    if types.is_struct(kind) and types.is_struct(array.type):
        return _converted_struct(array, kind)
    if types.is_list(kind) and not types.is_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if types.is_list(kind):
        array = pa.concat_arrays([array, array.slice(0, 0)])
        array = array.take(pa.array(np.arange(len(array)))) if array.offset else array
        values = converted(array.values, kind.value_type)
        mask = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(array.offsets, values, mask=mask)
    return _cast(array, kind)


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast within a family only: otherwise Arrow would read "1" as a number, and round decimals."""
    types = pa.types
    both = (array.type, kind)
    rounds = any(map(types.is_floating, both)) and any(map(types.is_decimal, both))
    if family_of_type(plain_type(array.type)) != family_of_type(kind) or rounds:
        raise pa.ArrowInvalid(f"{array.type} is not {kind}")
    found = array.cast(kind)
    if types.is_floating(kind) and not types.is_integer(array.type):
        back = found.cast(array.type)
        if pc.all(pc.or_kleene(pc.equal(back, array), pc.is_nan(array))).as_py() is False:
            raise pa.ArrowInvalid(f"a value would be rounded to {kind}")
    return found


def _converted_struct(array: pa.Array, kind: pa.DataType) -> pa.Array:
    flat = dict(zip([one.name for one in array.type], array.flatten(), strict=True))
    children = [
        converted(flat[one.name], one.type) if one.name in flat else pa.nulls(len(array), one.type)
        for one in kind
    ]
    mask = array.is_null() if array.null_count else None
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=mask)


def converted_where_possible(
    array: pa.Array, kind: pa.DataType
) -> list[tuple[int, pa.Array | None]]:
    """Return pieces of the array in this type by their first position; None: it cannot be cast."""
    try:
        return [(0, converted(array, kind))]
    except (pa.ArrowException, ValueError):
        if len(array) == 1:
            return [(0, None)]
    middle = len(array) // 2
    right = converted_where_possible(array.slice(middle), kind)
    return [
        *converted_where_possible(array.slice(0, middle), kind),
        *((middle + first, piece) for first, piece in right),
    ]
