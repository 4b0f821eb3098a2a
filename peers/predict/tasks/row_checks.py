"""Find the rows that the model cannot take: unreadable ones, and ones with missing values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from peers.predict.spec import Manifest

if TYPE_CHECKING:
    from peers.predict.inputs import Rows


def invalid_rows(rows: Rows, manifest: Manifest) -> dict[int, str]:
    """Return why rows cannot be predicted, by their index in the chunk."""
    invalid = dict(rows.bad)
    for name in manifest.required:
        for index in _missing(rows.table.column(name)):
            invalid.setdefault(
                index,
                f"the feature {name!r} has no value (NaN or null); --allow-nan sends it anyway",
            )
    return invalid


def _missing(column: pa.ChunkedArray) -> list[int]:
    if not column.null_count and not any(map(_has_nan, column.chunks)):
        return []
    missing = pc.is_null(column, nan_is_null=True)
    indices: list[int] = pc.indices_nonzero(missing).to_pylist()
    return indices


def _has_nan(array: pa.Array) -> bool:
    """Return whether a value of an array without nulls is NaN, in a fifth of `is_null`'s time."""
    if not pa.types.is_floating(array.type) or not len(array):
        return False
    return bool(np.isnan(array.to_numpy().min()))


def json_id(value: object) -> object:
    """Return an id as jsonb can hold it, for display; the output has the original."""
    if value is None or isinstance(value, int):
        return value
    return json_text(value)


def json_text(value: object) -> str:
    """Return a text that jsonb can hold."""
    return str(value).replace("\0", "\N{SYMBOL FOR NULL}").encode(errors="replace").decode()
