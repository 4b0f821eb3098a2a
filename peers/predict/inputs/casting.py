"""Cast the values of a typed column to another type without loss; say why a value cannot be."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from peers.predict.errors import InputError
from peers.predict.texts import shortened

_SHOWN: Final = 100
"""Characters of a value in a reason."""
Problems = dict[int, str]


def check_cast(field: pa.Field, wanted: pa.DataType) -> None:
    """Raise InputError if no value of the field can be cast to the wanted type."""
    have = _plain(field.type)
    wanted = _plain(wanted)
    are_times = kinds.is_timestamp(have) and kinds.is_timestamp(wanted)
    if are_times and (have.tz is None) != (wanted.tz is None):
        raise InputError(
            f"the column {field.name!r} is {have}, which cannot become {wanted}: "
            "a time without a zone is not an instant",
            "Add the zone to the input's column, or train the model without a zone.",
        )
    try:
        _converted(pa.array([], have), wanted)
    except pa.ArrowException as error:
        raise InputError(
            f"the column {field.name!r} is {have}, which cannot become {wanted}",
            "Convert it in the input.",
        ) from error


def cast(column: pa.ChunkedArray, name: str, wanted: pa.DataType) -> tuple[pa.Array, Problems]:
    """Return the cast column with null for values that do not fit, and the reasons by index."""
    have: pa.Array = column.combine_chunks()
    if isinstance(have, pa.ChunkedArray):  # older versions return no chunk at all
        have = pa.concat_arrays(have.chunks) if have.num_chunks else pa.array([], have.type)
    if kinds.is_dictionary(have.type):
        have = have.dictionary_decode()
    found, lost = _lossless(have, wanted)
    problems = {
        index: f"the column {name!r} holds {_shown(have[index])}, which {wanted} cannot hold"
        for index in lost
    }
    return found, problems


def _lossless(have: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, list[int]]:
    """Return the values, with null for those that cannot be cast, and the positions of these."""
    try:
        found = _converted(have, wanted)
        same = _is_same(have, found)
    except pa.ArrowInvalid:
        if len(have) == 1:
            return pa.nulls(1, wanted), [0]
        half = len(have) // 2
        (left, lost), (right, more) = (
            _lossless(have[:half], wanted),
            _lossless(have[half:], wanted),
        )
        return pa.concat_arrays([left, right]), lost + [half + index for index in more]
    if same is None or pc.all(same).as_py() is not False:
        return found, []
    lost = pc.indices_nonzero(pc.invert(pc.fill_null(same, True))).to_pylist()
    return pc.if_else(pc.fill_null(same, True), found, pa.scalar(None, wanted)), lost


def _converted(have: pa.Array, wanted: pa.DataType) -> pa.Array:
    if kinds.is_decimal(have.type) and kinds.is_floating(wanted):
        # Arrow does not always find the nearest double, except for a text
        return have.cast(pa.string()).cast(pa.float64()).cast(wanted)
    return have.cast(wanted)


def _is_same(have: pa.Array, found: pa.Array) -> pa.Array | None:
    """Return whether each value survives the cast and back; None: no check is needed."""
    if have.type == found.type or not _is_measured(have.type) or not _is_measured(found.type):
        return None
    if kinds.is_decimal(have.type) and kinds.is_integer(found.type):
        return None  # Arrow itself refuses a loss
    back = found.cast(have.type, safe=False)
    if kinds.is_float16(have.type):  # these cannot be compared
        back, have = back.cast(pa.float32()), have.cast(pa.float32())
    same = pc.equal(back, have)
    if kinds.is_floating(have.type):
        same = pc.or_kleene(same, pc.and_kleene(pc.is_nan(back), pc.is_nan(have)))
    return same


def _is_measured(type_: pa.DataType) -> bool:
    """Return whether to compare values: numbers and times, but not texts, whose spelling varies."""
    return bool(
        kinds.is_integer(type_)
        or kinds.is_floating(type_)
        or kinds.is_decimal(type_)
        or kinds.is_temporal(type_)
    )


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if kinds.is_dictionary(type_) else type_


def _shown(value: pa.Scalar) -> str:
    shown = str(value.as_py()) if not kinds.is_timestamp(value.type) else str(value)
    return shortened(shown, _SHOWN)
