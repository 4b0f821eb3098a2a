"""What a model says of its inputs: names, kinds of values, categories, gaps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal["number", "integer", "boolean", "text", "category", "time", "anything"]
Form: TypeAlias = Literal["rows", "frame", "matrix", "texts", "table", "arrays"]

_NUMERIC: Final = frozenset({"number", "integer", "boolean"})


@dataclass(frozen=True, slots=True)
class Feature:
    """What a model was fitted on in one column.

    `name`: None where it knows columns by their place only. `known`: the first values that an
    encoder knows, for messages. `categories`: all of them, in the order in which a data frame must
    have them. `gap`: how the model knows a missing value, if it knows one in texts.
    """

    name: str | None = None
    kind: Kind = "anything"
    takes_gaps: bool | None = None
    known: tuple[Any, ...] = ()
    categories: tuple[Any, ...] | None = None
    gap: Literal["nan", "none"] | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """The features in the model's order; None: it takes whatever columns there are.

    `rest`: what holds for columns of which nothing else is known. `form`: what the rows become: a
    list of dicts, a data frame, an array, one column of texts, an Arrow table, or arrays by name.
    `is_estimator`: it raises for gaps that it does not take. `blanks_are_underscores`: the model
    renamed columns when it was fitted. `optional`: features that come after the others if the input
    has them.
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
    """Return what several parts of a model that take the same column want together."""
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
    gaps = (left.takes_gaps, right.takes_gaps)
    best = left if left.known or left.categories else right
    return replace(
        best,
        kind=kind,
        takes_gaps=False if False in gaps else None if None in gaps else True,
    )
