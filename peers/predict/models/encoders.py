"""Find the categories that scikit-learn's encoders know, and describe the encoded columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from peers.predict.signature import Feature, Kind

_SHOWN: Final = 5
_KINDS: Final[dict[str, Kind]] = {
    "U": "text", "S": "text", "b": "boolean", "i": "integer", "u": "integer", "f": "number",
    "M": "time", "m": "time",
}  # fmt: skip


def encoded(encoder: Any, values: Any) -> Feature:
    """Return an encoder's column: the kind of its categories, and whether one means missing."""
    listed = np.asarray(values).tolist()
    known = [one for one in listed if one is not None and not is_nan(one)]
    has_nan, has_none = any(map(is_nan, listed)), None in listed
    # a target encoder uses the average for unknown values
    tolerant = getattr(encoder, "handle_unknown", "ignore") != "error"
    return Feature(
        kind=_kind_of(values, known),
        accepts_missing=has_nan or has_none or tolerant,
        known=tuple(known[:_SHOWN]),
        missing_as="nan" if has_nan else "none" if has_none else None,
    )


def histogram(model: Any, count: int) -> list[Feature]:
    """Return the columns of HistGradientBoosting: numbers, and categories of its own encoder."""
    mask = [bool(one) for one in model.is_categorical_]
    parts = getattr(getattr(model, "_preprocessor", None), "named_transformers_", {})
    known = iter(getattr(parts.get("encoder"), "categories_", ()))
    return [_histogram_column(next(known, None) if mask[place] else None) for place in range(count)]


def _histogram_column(values: Any) -> Feature:
    if values is None:
        return Feature(kind="number", accepts_missing=True)
    listed = tuple(one for one in values.tolist() if one is not None and not is_nan(one))
    kind = _kind_of(values, listed)
    if kind in {"number", "integer"}:
        return Feature(kind=kind, accepts_missing=True, known=listed[:_SHOWN])
    return Feature(kind="category", accepts_missing=True, known=listed[:_SHOWN], categories=listed)


def _kind_of(values: Any, known: Sequence[Any]) -> Kind:
    dtype = np.asarray(values).dtype
    if dtype.kind != "O":
        return _KINDS.get(dtype.kind, "anything")
    types = {type(one) for one in known}
    if types == {str}:
        return "text"
    if types == {bool}:
        return "boolean"
    if types == {int}:
        return "integer"
    return "number" if types and types <= {int, float} else "anything"


def is_nan(value: Any) -> bool:
    """Return whether this is the number NaN."""
    return isinstance(value, float) and value != value
