"""Fit predictions into the run's output type; report the values that do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from peers.predict.errors import OutputConflict
from peers.predict.outputs.column import Column
from peers.predict.outputs.families import NOTHING, family_of_value, many_of, one_of, shown
from peers.predict.outputs.output_type import OutputType, current_type, single_column, widen_type
from peers.predict.outputs.widening import converted
from peers.predict.predictions import PREDICTION, Columns, Predictions


@dataclass(frozen=True, slots=True)
class RequestedColumns:
    """The user's choice. `chosen`: the model's columns; none: all. `taken`: names of others."""

    chosen: tuple[str, ...]
    taken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The predictions that fit, with their positions in order, and problems by position."""

    table: pa.Table
    places: np.ndarray[Any, Any]
    problems: dict[int, str]


def fit(folder: Path, requested: RequestedColumns, batches: Sequence[Predictions]) -> Fitted:
    """Fit predictions into the run's output type, and widen it for them if nothing is lost.

    Positions count through all batches. Raises OutputError.
    """
    while True:
        before = current_type(folder)
        wider, fitted = fitted_to(before.type, requested, batches)
        if wider is None or wider == before.type or widen_type(folder, before, wider):
            return fitted


def fitted_to(
    now: OutputType | None, requested: RequestedColumns, batches: Sequence[Predictions]
) -> tuple[OutputType | None, Fitted]:
    """Return the widened type, and the predictions in it; None if all values are null."""
    known = now or _first_type(requested, batches)
    target = known or single_column()
    rows = sum(map(len, batches))
    columns: dict[str, list[tuple[int, Any]]] = {name: [] for name in target.columns}
    problems: dict[int, str] = {}
    start = 0
    for batch in batches:
        named = {PREDICTION: _whole(batch)} if target.is_single else _by_name(
            batch, start, requested, many_of("dict"), problems
        )  # fmt: skip
        for name, values in named.items():
            columns.setdefault(name, []).append((start, values))
        start += len(batch)
    types, wide, arrays = dict(target.columns), set(target.wide), {}
    for name, pieces in columns.items():
        column = Column(name, types.get(name, pa.null()), name in wide, target.is_single)
        column.take_in(pieces)
        problems |= column.problems | problems
        types[name], arrays[name] = column.kind, column.whole(rows)
        wide |= {name} if column.wide else set()
    places, table = np.arange(rows), pa.table(arrays)
    if problems:
        places = np.delete(places, list(problems))
        table = table.take(pa.array(places))
    found = OutputType(types, frozenset(wide), target.is_single) if known else None
    return found, Fitted(table, places, problems)


def shaped(table: pa.Table, final: OutputType) -> pa.Table:
    """Return columns that were fitted earlier, in the final output type.

    Raises OutputConflict if they are not this run's.
    """
    unknown = [
        field.name
        for field in table.schema
        if field.name not in final.columns and not pa.types.is_null(field.type)
    ]
    if unknown:
        raise OutputConflict(f"the column {unknown[0]!r} of a part is not this run's")
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


def _first_type(requested: RequestedColumns, batches: Sequence[Predictions]) -> OutputType | None:
    """Return the columns of the first prediction; None if all of them are null."""
    for batch in batches:
        if isinstance(batch, Columns):
            if requested.chosen == (PREDICTION,) and PREDICTION not in batch.values:
                return single_column()
            return _chosen(requested, list(batch.values))
        if not isinstance(batch, list):
            return single_column()
        values = [one for one in batch if family_of_value(one) != NOTHING]
        if not values:
            continue
        if not all(isinstance(one, dict) and one and _are_texts(one) for one in values):
            return single_column()
        if any(one.keys() != values[0].keys() for one in values):
            return single_column()
        if requested.chosen == (PREDICTION,) and PREDICTION not in values[0]:
            return single_column()
        return _chosen(requested, list(values[0]))
    return None


def _are_texts(keys: Any) -> bool:
    return all(isinstance(key, str) for key in keys)


def _chosen(requested: RequestedColumns, names: Sequence[str]) -> OutputType:
    names = requested.chosen or [name for name in names if name not in requested.taken]
    return OutputType(dict.fromkeys(names, pa.null()), frozenset(), is_single=False)


def _whole(batch: Predictions) -> Any:
    return batch.as_rows() if isinstance(batch, Columns) else batch


def _by_name(
    batch: Predictions,
    start: int,
    requested: RequestedColumns,
    others: str,
    problems: dict[int, str],
) -> dict[str, Any]:
    """Return the columns of a batch; a value that is not a row of columns becomes a problem."""
    if isinstance(batch, Columns):
        named = {name: batch.values[name] for name in _wanted(batch.values, requested)}
        if not requested.chosen and (clash := set(batch.values) & set(requested.taken)):
            problems |= dict.fromkeys(range(start, start + len(batch)), _clash(clash))
        return named
    rows: list[dict[str, Any]] = []
    for place, value in enumerate(batch):
        row: dict[str, Any] = {}
        if isinstance(value, dict) and _are_texts(value):
            row = value
            if not requested.chosen and (clash := set(value) & set(requested.taken)):
                problems[start + place] = _clash(clash)
        elif (family := family_of_value(value)) != NOTHING:
            what = "a dict with keys that are not texts" if family == "dict" else one_of(family)
            problems[start + place] = (
                f"the model returned {what} ({shown(value)}) where its other predictions are "
                f"{others}, of which each key is a column"
            )
        rows.append(row)
    names = _wanted({name: None for row in rows for name in row}, requested)
    return {name: [row.get(name) for row in rows] for name in names}


def _wanted(names: dict[str, Any], requested: RequestedColumns) -> list[str]:
    return [
        name
        for name in names
        if (name in requested.chosen if requested.chosen else name not in requested.taken)
    ]


def _clash(names: set[str]) -> str:
    return (
        f"the model returned a column {min(names)!r}, a name that the output uses already for "
        "another: choose columns by --columns"
    )
