"""Build a column of predictions; values that do not fit the common type become problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from peers.predict.outputs.arrays import Group, arrays_of
from peers.predict.outputs.families import (
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


class _Piece(NamedTuple):
    places: np.ndarray[Any, Any]
    values: pa.Array


@dataclass
class Column:
    """A column of the output, while it is built.

    `wide`: see `widening`. `is_only`: errors need not name the column.
    """

    name: str
    kind: pa.DataType
    wide: bool
    is_only: bool
    problems: dict[int, str] = field(default_factory=dict)
    pieces: list[_Piece] = field(default_factory=list)

    def take_in(self, batches: Sequence[tuple[int, Any]]) -> None:
        """Add values, the most common type first."""
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
        """Return the column, with null for each problem."""
        pieces = [_Piece(one.places, converted(one.values, self.kind)) for one in self.pieces]
        if len(pieces) == 1 and len(pieces[0].places) == rows:
            return pieces[0].values  # values of a single type are in order
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
            f"the model returned {shown(value)}{self._where()}, which cannot be stored with its "
            f"other predictions, of the type {self.kind}, without loss"
        )

    def _where(self) -> str:
        return "" if self.is_only else f" in the column {self.name!r}"
