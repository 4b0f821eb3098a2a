"""Infer the type of a CSV's column from all of its values, as pandas does for a whole file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from peers.predict.inputs.text_pandas import PandasReader

_INT64: Final = (-(1 << 63), (1 << 63) - 1)
_DIGITS: Final = 400
"""The digits of a number: more than any type holds, fewer than Python refuses."""
_UINT64_MAX: Final = (1 << 64) - 1
_TRUTHS: Final = frozenset({"True", "TRUE", "true", "False", "FALSE", "false"})


class Kind(Enum):
    """The kind of a column; each has its Arrow type.

    INT_WITH_GAPS: doubles from integers with missing values. RAW_TEXT: texts whose missing values
    are texts as well, as pandas reads numbers beyond 64 bits. GAPS: all values are missing.
    """

    INT = "int64"
    UINT = "uint64"
    INT_WITH_GAPS = "whole numbers with gaps"
    FLOAT = "double"
    BOOL = "bool"
    TEXT = "string"
    RAW_TEXT = "texts without gaps"
    GAPS = "gaps"

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type."""
        return _ARROW[self]


_ARROW: Final = {
    Kind.INT: pa.int64(), Kind.UINT: pa.uint64(), Kind.INT_WITH_GAPS: pa.float64(),
    Kind.FLOAT: pa.float64(), Kind.BOOL: pa.bool_(), Kind.TEXT: pa.string(),
    Kind.RAW_TEXT: pa.string(), Kind.GAPS: pa.float64(),
}  # fmt: skip


class TypeSamples:
    """A few values of a column, in order, from which pandas infers the same type as from all.

    The type depends on the sorts of values, and on which sort comes first. So the first value of
    each sort is enough. After a text that is neither a number nor a boolean, no further value
    changes the type.
    """

    def __init__(self, reader: PandasReader) -> None:
        self._reader = reader
        self._gap = min(reader.options.gaps, default=None)
        self._texts: dict[str, str] = {}
        """By sort, in order of appearance."""
        thousands = re.escape(reader.options.thousands or "")
        digits = f"[0-9{thousands}]"
        point = re.escape(reader.options.decimal)
        self._whole = re.compile(rf" *[+-]?{digits}+ *")
        self._number = re.compile(
            rf" *[+-]?(?:{digits}+{point}?[0-9]*|{point}[0-9]+)(?:[eE][+-]?[0-9]+)? *"
        )

    @property
    def is_text(self) -> bool:
        """Whether the column is a text whatever follows."""
        return "text" in self._texts

    def add(self, values: pa.Array) -> bool:
        """Add values of a block that pandas did not read as texts.

        Return True if these values are not enough: then the texts must be added instead.
        """
        if values.null_count:
            self._add_gap()
        # after an unsigned number that is not an integer, all numbers are doubles
        if values.null_count == len(values) or "number" in self._texts:
            if pa.types.is_boolean(values.type) and values.null_count < len(values):
                self._texts.setdefault("truth", "True")
            return False
        if pa.types.is_boolean(values.type):
            self._texts.setdefault("truth", "True")
        elif pa.types.is_integer(values.type):
            bounds = pc.min_max(values).as_py()
            for bound in (bounds["min"], bounds["max"]):
                self._texts.setdefault(_sort_of_int(bound), str(bound))
        else:
            return self._has_doubts(values)
        return False

    def _has_doubts(self, doubles: pa.Array) -> bool:
        """Return whether the texts of these doubles may be of sorts that the doubles do not show.

        If a column has numbers beyond an int64, pandas ignores what follows a minus sign; so
        3 beside -0.5 makes texts of it, and 3.5 doubles.
        """
        given = pc.drop_null(doubles).to_numpy()
        if np.abs(given).max() > _INT64[1]:
            return True
        is_below = np.signbit(given)
        above, below = given[~is_below], given[is_below]
        broken = above[np.floor(above) != above]
        if len(above) and len(below) and not len(broken):
            return True
        above = broken if len(broken) else above
        for sort, found in (("negative number", below), ("number", above)):
            if len(found):
                text = repr(float(found[0])).replace(".", self._reader.options.decimal)
                self._texts.setdefault(sort, text)
        return False

    def add_texts(self, values: Iterable[str | None]) -> None:
        """Add texts of a block."""
        for value in values:
            if self.is_text:
                return
            if value is None:
                self._add_gap()
            else:
                self._texts.setdefault(self._sort(value), value)

    def kind(self) -> Kind:
        """Return what pandas infers from the values so far."""
        sorts = self._texts.keys()
        if sorts <= {"gap"}:
            return Kind.GAPS
        texts = list(self._texts.values())
        found = self._reader.one_column(texts)
        match found.dtype.kind:
            case "i":
                return Kind.INT
            case "u":
                return Kind.UINT
            case "b":
                return Kind.BOOL
            case "f":
                is_whole = sorts <= {"gap", "whole", "below 0"}
                return Kind.INT_WITH_GAPS if is_whole else Kind.FLOAT
            case _:
                return self._text_or_bool(texts, found)

    def _text_or_bool(self, texts: list[str], found: pd.Series[Any]) -> Kind:
        if all(isinstance(value, bool) or value != value for value in found):
            return Kind.BOOL
        # pandas 3 has Python integers beyond 64 bits, which Arrow lacks
        if self._gap is None or any(isinstance(value, int) for value in found):
            return Kind.TEXT
        last = self._reader.one_column([*texts, self._gap]).iloc[-1]
        return Kind.RAW_TEXT if last == self._gap else Kind.TEXT

    def _add_gap(self) -> None:
        if self._gap is not None:
            self._texts.setdefault("gap", self._gap)

    def _sort(self, value: str) -> str:
        if value in _TRUTHS:
            return "truth"
        plain = value.replace(self._reader.options.thousands or "\0", "")[:_DIGITS]
        if self._whole.fullmatch(value):
            return _sort_of_int(int(plain)) if "-" not in plain or int(plain) else "below 0"
        if self._number.fullmatch(value):
            is_beyond = math.isinf(float(plain.replace(self._reader.options.decimal, ".")))
            sort = "beyond a double" if is_beyond else "number"
            return f"negative {sort}" if value.lstrip().startswith("-") else sort
        # such as inf, whose spellings differ between versions of pandas
        is_number = self._reader.one_column([value]).dtype.kind == "f"
        return f"number {value.strip()}" if is_number else "text"


def _sort_of_int(value: int) -> str:
    if _INT64[0] <= value <= _INT64[1]:
        return "below 0" if value < 0 else "whole"
    if value < 0:
        return "far below 0"
    return "unsigned" if value <= _UINT64_MAX else "over"
