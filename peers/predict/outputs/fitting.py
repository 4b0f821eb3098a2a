"""Predictions as columns of the types on which a run's chunks agree; what does not fit is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from peers.predict.errors import OutputConflict
from peers.predict.outputs.agreed import OutputType, agree, agreed, single_column
from peers.predict.outputs.arrays import Group, arrays_of
from peers.predict.outputs.families import (
    NOTHING,
    cannot_be_written,
    family_of_type,
    family_of_value,
    many_of,
    one_of,
    shown,
)
from peers.predict.outputs.widening import (
    common_type,
    converted,
    converted_where_possible,
    is_wide,
)
from peers.predict.results import PREDICTION, Columns, Predictions


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants. `chosen`: columns of the model; none: all. `taken`: names of others."""

    chosen: tuple[str, ...]
    taken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Predictions that fit, with their places in order, and by place what the others are."""

    table: pa.Table
    places: np.ndarray[Any, Any]
    problems: dict[int, str]


def fit(folder: Path, asked: Asked, batches: Sequence[Predictions]) -> Fitted:
    """Bring predictions into the run's types, which are widened for them where nothing is lost.

    Places count through all batches. Raises OutputError.
    """
    while True:
        before = agreed(folder)
        wider, fitted = fitted_to(before.type, asked, batches)
        if wider is None or wider == before.type or agree(folder, before, wider):
            return fitted


def fitted_to(
    now: OutputType | None, asked: Asked, batches: Sequence[Predictions]
) -> tuple[OutputType | None, Fitted]:
    """Return the type that this one is widened to, and the predictions in it.

    None: nothing but null was seen.
    """
    known = now or _first_type(asked, batches)
    target = known or single_column()
    rows = sum(map(len, batches))
    columns: dict[str, list[tuple[int, Any]]] = {name: [] for name in target.columns}
    problems: dict[int, str] = {}
    start = 0
    for batch in batches:
        named = {PREDICTION: _whole(batch)} if target.is_single else _by_name(
            batch, start, asked, many_of("dict"), problems
        )  # fmt: skip
        for name, values in named.items():
            columns.setdefault(name, []).append((start, values))
        start += len(batch)
    types, wide, arrays = dict(target.columns), set(target.wide), {}
    for name, pieces in columns.items():
        column = _Column(name, types.get(name, pa.null()), name in wide, target.is_single)
        column.take_in(pieces)
        problems |= column.problems | problems
        types[name], arrays[name] = column.kind, column.whole(rows)
        wide |= {name} if column.wide else set()
    places = np.array([place for place in range(rows) if place not in problems], dtype=np.int64)
    table = pa.table(arrays)
    if problems:
        table = table.take(pa.array(places))
    else:
        places = np.arange(rows)
    found = OutputType(types, frozenset(wide), target.is_single) if known else None
    return found, Fitted(table, places, problems)


def shaped(table: pa.Table, final: OutputType) -> pa.Table:
    """Return columns that were fitted earlier in the type that was agreed on last.

    Raises OutputConflict: they are not the run's.
    """
    extra = [
        field.name
        for field in table.schema
        if field.name not in final.columns and not pa.types.is_null(field.type)
    ]
    if extra:
        raise OutputConflict(f"the column {extra[0]!r} of a part is not the run's")
    columns = {}
    for name, kind in final.columns.items():
        if name not in table.column_names:
            columns[name] = pa.nulls(table.num_rows, kind)
            continue
        try:
            chunks = [converted(one, kind) for one in table.column(name).chunks]
        except (pa.ArrowException, ValueError) as error:
            raise OutputConflict(
                f"the predictions of a part do not fit the run's, which are {kind}: {error}"
            ) from error
        columns[name] = pa.chunked_array(chunks, kind)
    return pa.table(columns)


class _Piece(NamedTuple):
    places: np.ndarray[Any, Any]
    values: pa.Array


@dataclass
class _Column:
    name: str
    kind: pa.DataType
    wide: bool
    is_only: bool
    problems: dict[int, str] = field(default_factory=dict)
    pieces: list[_Piece] = field(default_factory=list)

    def take_in(self, batches: Sequence[tuple[int, Any]]) -> None:
        """Take in values, those of the commonest type first."""
        by_type: dict[pa.DataType, list[Group]] = defaultdict(list)
        for start, values in batches:
            found = arrays_of(values)
            for places, array in found.groups:
                by_type[array.type].append(Group(places + start, array))
            for place, what in found.problems.items():
                self.problems[start + place] = f"the model returned {what}{self._where()}"
        merged = [
            _Piece(
                np.concatenate([places for places, _ in groups]),
                pa.concat_arrays([values for _, values in groups]),
            )
            for groups in by_type.values()
        ]
        for piece in sorted(merged, key=lambda piece: -len(piece.places)):
            self._take_in(piece)

    def whole(self, rows: int) -> pa.Array:
        """Return the column, null where there was a problem."""
        pieces = [_Piece(one.places, converted(one.values, self.kind)) for one in self.pieces]
        if len(pieces) == 1 and len(pieces[0].places) == rows:
            return pieces[0].values  # a single type comes in order
        places = np.full(rows, -1, dtype=np.int64)
        first = 0
        for piece in pieces:
            places[piece.places] = np.arange(first, first + len(piece.places))
            first += len(piece.places)
        values = [*(piece.values for piece in pieces), pa.nulls(1, self.kind)]
        places[places < 0] = first
        return pa.concat_arrays(values).take(pa.array(places))

    def _take_in(self, piece: _Piece) -> None:
        target = common_type(self.kind, piece.values.type, wide=self.wide)
        why = cannot_be_written(target or piece.values.type)
        if why is not None:
            self._refuse(piece, f"the model returned {why}{self._where()}")
            return
        families = {family_of_type(self.kind), family_of_type(piece.values.type)}
        if target is None and len(families) > 1:
            self._refuse(piece, None)
            return
        good: list[_Piece] = []
        for first, values in converted_where_possible(piece.values, target or self.kind):
            if values is None:
                self._refuse(
                    _Piece(piece.places[first : first + 1], piece.values[first:][:1]), None
                )
            else:
                good.append(_Piece(piece.places[first : first + len(values)], values))
        if good:
            self.kind = target or self.kind
            self.wide = self.wide or any(is_wide(one.values) for one in good)
            self.pieces += good

    def _refuse(self, piece: _Piece, why: str | None) -> None:
        for place, one in zip(piece.places.tolist(), piece.values, strict=True):
            self.problems[place] = why or self._misfit(one.as_py())

    def _misfit(self, value: Any) -> str:
        family, others = family_of_value(value), family_of_type(self.kind)
        if family != others:
            return (
                f"the model returned {one_of(family)} ({shown(value)}){self._where()} where its "
                f"other predictions are {many_of(others)}"
            )
        return (
            f"the model returned {shown(value)}{self._where()}, which cannot stand beside its "
            f"other predictions, of the type {self.kind}, without loss"
        )

    def _where(self) -> str:
        return "" if self.is_only else f" in the column {self.name!r}"


def _first_type(asked: Asked, batches: Sequence[Predictions]) -> OutputType | None:
    """Return the columns by what was seen first; None if that is nothing but null."""
    for batch in batches:
        if isinstance(batch, Columns):
            if asked.chosen == (PREDICTION,) and PREDICTION not in batch.values:
                return single_column()
            return _chosen(asked, list(batch.values))
        if not isinstance(batch, list):
            return single_column()
        values = [one for one in batch if family_of_value(one) != NOTHING]
        if not values:
            continue
        if not all(isinstance(one, dict) and one and _are_texts(one) for one in values):
            return single_column()
        if any(one.keys() != values[0].keys() for one in values):
            return single_column()
        if asked.chosen == (PREDICTION,) and PREDICTION not in values[0]:
            return single_column()
        return _chosen(asked, list(values[0]))
    return None


def _are_texts(keys: Any) -> bool:
    return all(isinstance(key, str) for key in keys)


def _chosen(asked: Asked, names: Sequence[str]) -> OutputType:
    names = asked.chosen or [name for name in names if name not in asked.taken]
    return OutputType(dict.fromkeys(names, pa.null()), frozenset(), is_single=False)


def _whole(batch: Predictions) -> Any:
    return batch.as_rows() if isinstance(batch, Columns) else batch


def _by_name(
    batch: Predictions, start: int, asked: Asked, others: str, problems: dict[int, str]
) -> dict[str, Any]:
    """Return the columns of a batch; what is no row with columns becomes a problem."""
    if isinstance(batch, Columns):
        named = {name: batch.values[name] for name in _wanted(batch.values, asked)}
        if not asked.chosen and (clash := set(batch.values) & set(asked.taken)):
            problems |= dict.fromkeys(range(start, start + len(batch)), _clash(clash))
        return named
    rows: list[dict[str, Any]] = []
    for place, value in enumerate(batch):
        row: dict[str, Any] = {}
        if isinstance(value, dict) and _are_texts(value):
            row = value
            if not asked.chosen and (clash := set(value) & set(asked.taken)):
                problems[start + place] = _clash(clash)
        elif (family := family_of_value(value)) != NOTHING:
            what = "a dict with keys that are no texts" if family == "dict" else one_of(family)
            problems[start + place] = (
                f"the model returned {what} ({shown(value)}) where its other predictions are "
                f"{others}, of which each key is a column"
            )
        rows.append(row)
    names = _wanted({name: None for row in rows for name in row}, asked)
    return {name: [row.get(name) for row in rows] for name in names}


def _wanted(names: dict[str, Any], asked: Asked) -> list[str]:
    return [
        name
        for name in names
        if (name in asked.chosen if asked.chosen else name not in asked.taken)
    ]


def _clash(names: set[str]) -> str:
    return (
        f"the model returned a column {min(names)!r}, a name that the output has already for "
        "another: choose columns by --columns"
    )
