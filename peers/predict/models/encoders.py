"""Categories that scikit-learn's encoders know, and what follows for the columns they encode."""

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
    """Return an encoder's column: the kind of its categories, and whether a gap is one of them."""
    listed = np.asarray(values).tolist()
    known = [one for one in listed if one is not None and not is_nan(one)]
    has_nan, has_none = any(map(is_nan, listed)), None in listed
    # a target encoder takes what it does not know for the average
    tolerant = getattr(encoder, "handle_unknown", "ignore") != "error"
    return Feature(
        kind=_kind_of(values, known),
        takes_gaps=has_nan or has_none or tolerant,
        known=tuple(known[:_SHOWN]),
        gap="nan" if has_nan else "none" if has_none else None,
    )


def histogram(model: Any, count: int) -> list[Feature]:
    """Return HistGradientBoosting's: numbers, and categories as its own encoder knows them."""
    mask = [bool(one) for one in model.is_categorical_]
    parts = getattr(getattr(model, "_preprocessor", None), "named_transformers_", {})
    known = iter(getattr(parts.get("encoder"), "categories_", ()))
    return [_histogram_column(next(known, None) if mask[place] else None) for place in range(count)]


def _histogram_column(values: Any) -> Feature:
    if values is None:
        return Feature(kind="number", takes_gaps=True)
    listed = tuple(one for one in values.tolist() if one is not None and not is_nan(one))
    kind = _kind_of(values, listed)
    if kind in {"number", "integer"}:
        return Feature(kind=kind, takes_gaps=True, known=listed[:_SHOWN])
    return Feature(kind="category", takes_gaps=True, known=listed[:_SHOWN], categories=listed)


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
    """Return whether it is the number that stands for a missing value."""
    return isinstance(value, float) and value != value
