"""What a model says about its inputs: names, kinds of values, categories, missing values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal["number", "integer", "boolean", "text", "category", "time", "anything"]
Form: TypeAlias = Literal["rows", "frame", "matrix", "texts", "table", "arrays"]

_NUMERIC: Final = frozenset({"number", "integer", "boolean"})


@dataclass(frozen=True, slots=True)
class Feature:
    """A column that a model was fitted on.

    `name`: None if the model knows columns only by position. `known`: the first values that an
    encoder knows, for messages. `categories`: all of them, in the order that a data frame must
    have. `missing_as`: the missing value that the model's encoder knows in texts, if any.
    """

    name: str | None = None
    kind: Kind = "anything"
    accepts_missing: bool | None = None
    known: tuple[Any, ...] = ()
    categories: tuple[Any, ...] | None = None
    missing_as: Literal["nan", "none"] | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """The features in the model's order; None: the model takes any columns.

    `rest`: the feature for columns that are not listed. `form`: the form of the rows: a list of
    dicts, a data frame, an array, one column of texts, an Arrow table, or arrays by name.
    `is_estimator`: the model raises for missing values that it does not accept.
    `blanks_are_underscores`: the model renamed columns when it was fitted. `optional`: features
    that follow the others if the input has them.
    """

    features: tuple[Feature, ...] | None = None
    rest: Feature = Feature()
    form: Form = "rows"
    is_estimator: bool = False
    blanks_are_underscores: bool = False
    optional: tuple[Feature, ...] = ()

    @property
    def names(self) -> tuple[str, ...] | None:
        """The features' names, if the model knows them by name."""
        if not self.features or any(one.name is None for one in self.features):
            return None
        return tuple(str(one.name) for one in self.features)


def merged(features: Iterable[Feature]) -> Feature:
    """Return a feature that suits all parts of a model that take the same column."""
    result: Feature | None = None
    for one in features:
        result = one if result is None else _both(result, one)
    return Feature() if result is None else result


def _both(left: Feature, right: Feature) -> Feature:
    kind: Kind
    if left.kind == right.kind or right.kind == "anything":
        kind = left.kind
    elif left.kind == "anything":
        kind = right.kind
    else:
        kind = "number" if {left.kind, right.kind} <= _NUMERIC else "anything"
    gaps = (left.accepts_missing, right.accepts_missing)
    best = left if left.known or left.categories else right
    return replace(
        best,
        kind=kind,
        accepts_missing=False if False in gaps else None if None in gaps else True,
    )
