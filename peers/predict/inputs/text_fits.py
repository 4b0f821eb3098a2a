"""Check that pandas read the same values from a block as it would read from the whole file."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from peers.predict.inputs.text_blocks import Block
from peers.predict.inputs.text_kinds import Kind

_EXACT: Final = 1 << 53
_PLAIN_ID: Final = "^(0|-?[1-9][0-9]{0,18})$"


def fits(values: pa.Array, kind: Kind, block: Block, *, is_id: bool) -> bool:
    """Return whether the values are the same if the whole file's column is of this kind."""
    found = values.type
    if pa.types.is_null(found) or not len(values):
        return kind not in {Kind.INT, Kind.UINT, Kind.RAW_TEXT} or is_id or not len(values)
    match kind:
        case Kind.INT:
            is_well = (is_id and are_plain(values)) or (
                found == pa.int64() and not values.null_count
            )
        case Kind.UINT:
            is_well = found == pa.uint64() and not values.null_count
        case Kind.INT_WITH_GAPS:
            is_well = found == pa.int64()
        case Kind.FLOAT:
            is_well = found == pa.float64() or _are_exact(values, block)
        case Kind.BOOL:
            is_well = pa.types.is_boolean(found)
        case Kind.TEXT:
            is_well = is_text(values)
        case _:
            is_well = False
    return bool(is_well)


def _are_exact(values: pa.Array, block: Block) -> bool:
    """Return whether these integers are the doubles that pandas reads from their texts."""
    if values.type != pa.int64():
        return False
    bounds = pc.min_max(values).as_py()
    has_zero = bounds["min"] <= 0 <= bounds["max"]
    is_small = bounds["min"] >= -_EXACT and bounds["max"] <= _EXACT
    # -0 and 0 are different doubles
    return bool(is_small and not (has_zero and b"-0" in block.raw))


def are_plain(ids: pa.Array) -> bool:
    """Return whether the ids are integers in their usual form, not texts such as 007."""
    if pc.all(pc.match_substring_regex(ids, _PLAIN_ID)).as_py() not in {True, None}:
        return False
    try:
        ids.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def is_text(values: pa.Array) -> bool:
    """Return whether these values are texts."""
    return bool(pa.types.is_large_string(values.type) or pa.types.is_string(values.type))
