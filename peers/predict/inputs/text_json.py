"""Read JSON as a table, like `pandas.DataFrame(records)` but exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from peers.predict.column_metadata import AS_JSON, GUESSED, READER, YES, is_json
from peers.predict.errors import InputError
from peers.predict.inputs.json_columns import json_text
from peers.predict.inputs.text_documents import JsonBlock, json_blocks, layout_of
from peers.predict.inputs.text_window import Window
from peers.predict.inputs.typed_values import from_values
from peers.predict.texts import shortened

_INT64: Final = (-(1 << 63), (1 << 63) - 1)
_UINT64_MAX: Final = (1 << 64) - 1
_EXACT: Final = 1 << 53
_SHOWN: Final = 100
_SAID: Final[dict[type, str]] = {
    bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object",
}  # fmt: skip
_SPLIT: Final = frozenset({"columns", "data"})


class JsonFile:
    """The columns of a JSON file, inferred block by block: one for each key of any row."""

    def __init__(self, path: Path, window: Window, id_column: str | None) -> None:
        self._path = path
        self._layout = layout_of(window)
        self._id_column = id_column
        self._columns: dict[str, _Column] = {}
        self._rows = 0
        self._only: dict[str, Any] = {}
        self._draft: pa.Schema | None = None

    @property
    def names(self) -> list[str]:
        """The columns, in order of appearance."""
        return list(self._columns)

    def blocks(self, window: Window) -> Iterator[JsonBlock]:
        """Cut the file into blocks."""
        window.seek(0)
        return json_blocks(self._path, window, self._layout)

    def learn(self, block: JsonBlock) -> pa.Table | None:
        """Add a block; return its values in the types of the first block.

        Return None if they do not fit those types, or if there are new columns.
        """
        for record in block.records:
            if not record.keys() <= self._columns.keys():
                for name in record:
                    self._columns.setdefault(name, _Column(self._rows))
        for name, column in self._columns.items():
            column.add([record.get(name) for record in block.records], block)
        self._rows += block.rows
        self._only = block.records[0] if self._rows == 1 else {}
        if self._draft is None:
            self._draft = self.schema()
        if self._draft.names != self.names:
            return None
        arrays = [
            _array([record.get(field.name) for record in block.records], field)
            for field in self._draft
        ]
        return None if None in arrays else pa.table(arrays, schema=self._draft)

    def schema(self) -> pa.Schema:
        """Return all columns with types that hold all of their values, except bad rows."""
        if self._only and (
            all(isinstance(value, dict) for value in self._only.values())
            or self._only.keys() >= _SPLIT
        ):
            raise InputError(
                f"{self._path} is a single JSON object that holds columns, not rows",
                "Write one object per row; with pandas: to_json(…, orient='records', lines=True).",
            )
        listed = [
            column.field(name, is_id=name == self._id_column)
            for name, column in self._columns.items()
        ]
        return pa.schema(listed, {READER: b"json"})

    def is_as_drafted(self) -> bool:
        """Return whether the types of the first block are those of the whole file."""
        return self._draft is not None and self._draft.equals(self.schema(), check_metadata=True)

    def notes(self) -> dict[str, str]:
        """Return a note for each column whose type is not obvious."""
        found = {name: column.note(name) for name, column in self._columns.items()}
        return {name: note for name, note in found.items() if note is not None}

    def convert(self, block: JsonBlock, schema: pa.Schema) -> tuple[pa.Table, dict[int, str]]:
        """Return the block's values in these fields, and why some rows cannot be read."""
        bad = dict(block.bad)
        arrays: list[pa.Array] = []
        for field in schema:
            values = [record.get(field.name) for record in block.records]
            natural = self._columns[field.name].field(field.name, is_id=False)
            array = _array(values, field) if field.type == natural.type else None
            if array is None:
                array, failed = from_values(values, field)
                bad = failed | bad
            arrays.append(array)
        return pa.table(arrays, schema=schema), bad


class _Column:
    """The sorts of values in a column."""

    def __init__(self, gaps: int) -> None:
        self._counts: Counter[type] = Counter({type(None): gaps} if gaps else {})
        self._firsts: dict[type, tuple[int, Any]] = {}
        self._low = self._high = 0

    def add(self, values: Sequence[Any], block: JsonBlock) -> None:
        """Add the values of a block; a bad row counts as a missing value."""
        sorts = Counter(map(type, values))
        self._counts.update(sorts)
        for sort in sorts.keys() - self._firsts.keys():
            place = next(place for place, value in enumerate(values) if type(value) is sort)
            self._firsts[sort] = (block.first + place, values[place])
        if int in sorts:
            whole = values if len(sorts) == 1 else [one for one in values if type(one) is int]
            self._low = min(self._low, *whole)
            self._high = max(self._high, *whole)

    def field(self, name: str, *, is_id: bool) -> pa.Field:
        """Return the column's field; JSON texts if no other type holds all values."""
        kind = self._kind(is_id=is_id)
        if kind is None:
            return pa.field(name, pa.string(), metadata=AS_JSON)
        return pa.field(name, kind, metadata=None if self._sorts() else {GUESSED: YES})

    def note(self, name: str) -> str | None:
        """Return a note about its type, if it is not obvious."""
        sorts = self._sorts()
        if self._kind(is_id=False) is not None:
            is_rounded = max(-self._low, self._high) > _EXACT and (
                float in sorts or self._counts[type(None)] > 0
            )
            return (
                "numbers: a model that takes a data frame gets integers beyond 2^53 rounded, "
                f"as pandas does; --types {name}=text keeps their digits"
                if is_rounded
                else None
            )
        if sorts <= {int, float}:
            return "JSON: integers beyond 64 bits, which stay exact"
        by_name: Counter[str] = Counter()
        for sort in sorts:
            by_name[_SAID[sort]] += self._counts[sort]
        if len(by_name) == 1:
            return None
        (most, _), *others = by_name.most_common()
        few = sum(count for _, count in others)
        row, value = min(
            (first for sort, first in self._firsts.items()
             if sort is not type(None) and _SAID[sort] != most),
            key=lambda first: first[0],
        )  # fmt: skip
        return (
            f"JSON, because {few:,} of {few + by_name[most]:,} values "
            f"{'is' if few == 1 else 'are'} not {most}; the first is row {row}: "
            f"{shortened(repr(value), _SHOWN)}"
        )

    def _sorts(self) -> set[type]:
        return {sort for sort, count in self._counts.items() if count} - {type(None)}

    def _kind(self, *, is_id: bool) -> pa.DataType | None:
        """Return the type; None if only JSON can hold the values."""
        sorts = self._sorts()
        if is_id and sorts and not (sorts == {int} and self._whole() is not None):
            return pa.float64() if sorts == {float} else pa.string()
        if not sorts:
            return pa.float64()
        if sorts == {bool}:
            return pa.bool_()
        if sorts == {str}:
            return pa.string()
        if sorts <= {int, float}:
            whole = self._whole()
            return pa.float64() if float in sorts and whole is not None else whole
        return None

    def _whole(self) -> pa.DataType | None:
        if _INT64[0] <= self._low and self._high <= _INT64[1]:
            return pa.int64()
        return pa.uint64() if self._low >= 0 and self._high <= _UINT64_MAX else None


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array | None:
    """Return all values as an array; None if one does not fit exactly."""
    sorts = set(map(type, values)) - {type(None)}
    try:
        if is_json(field):
            return pa.array(
                [None if one is None else json_text(one) for one in values], pa.string()
            )
        if bool in sorts and field.type != pa.bool_():
            return None
        return pa.array(values, field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None
