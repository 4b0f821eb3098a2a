"""Read blocks of a CSV with pandas, to get its exact types, numbers and missing values."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from peers.predict.inputs.records import Marks
from peers.predict.inputs.text_options import TextOptions

TEXT: Final = pd.ArrowDtype(pa.large_string())
"""Types that pandas reads directly, except for missing values."""


class MismatchError(ValueError):
    """Pandas finds another number of records in a block."""


class PandasReader:
    """`pandas.read_csv` with the options of one file."""

    def __init__(self, separator: str, options: TextOptions, width: int) -> None:
        self.marks = Marks(separator.encode(), options.quote.encode())
        self.options = options
        self.width = width
        self._own_gaps: dict[int, Sequence[str]] = {}

    def keep_texts(self, column: int, gaps: Sequence[str]) -> None:
        """Treat only these texts as missing values of the column."""
        self._own_gaps[column] = gaps

    def shows_missing(self, column: int) -> bool:
        """Return whether a field that a record lacks becomes a missing value."""
        return "" in self._own_gaps.get(column, self.options.gaps)

    def names(self, header: bytes) -> list[str]:
        """Return the names that pandas gives the columns of this header."""
        found = pd.read_csv(BytesIO(header), nrows=0, index_col=False, **self._marks())
        return [str(name) for name in found.columns]

    def read(
        self, raw: bytes, rows: int, types: Mapping[int, Any], columns: Sequence[int] | None = None
    ) -> dict[int, pa.Array]:
        """Return columns of these records in `types`, and others in the types that pandas infers.

        Raises MismatchError; ValueError or OverflowError for values that do not fit.
        """
        if not rows:
            return {}
        wanted = range(self.width) if columns is None else sorted(columns)
        if not wanted:
            return {}
        frame = pd.read_csv(
            BytesIO(raw), header=None, names=list(range(self.width)), index_col=False,
            usecols=list(wanted), dtype=dict(types), low_memory=False, skip_blank_lines=False,
            dtype_backend="pyarrow", **self._marks(), **self._gaps(),
        )  # fmt: skip
        if len(frame) != rows:
            raise MismatchError
        return {column: _arrow(frame[column]) for column in wanted}

    def whole_numbers(self, raw: bytes, column: int) -> pa.Array:
        """Return a column of integers without missing values.

        If pandas 2 looks for missing values, it treats the lowest and the highest number as such.
        """
        return _arrow(
            pd.read_csv(
                BytesIO(raw), header=None, names=list(range(self.width)), index_col=False,
                usecols=[column], low_memory=False, skip_blank_lines=False, **self._marks(),
            )[column]
        )  # fmt: skip

    def one_column(self, texts: Sequence[str]) -> pd.Series[Any]:
        """Return the column that pandas reads from these texts."""
        q = self.options.quote
        raw = "\n".join(q + text.replace(q, q * 2) + q for text in texts) + "\n"
        return pd.read_csv(
            BytesIO(raw.encode()), header=None, names=[0], low_memory=False,
            skip_blank_lines=False, na_values=sorted(self.options.gaps), keep_default_na=False,
            **self._marks(),
        )[0]  # fmt: skip

    def doubles(self, texts: pa.Array) -> pa.Array:
        """Return the numbers that pandas reads from these texts. Raises ValueError."""
        raw = "\n".join(texts.to_pylist()) + "\n"
        found = pd.read_csv(
            BytesIO(raw.encode()), header=None, names=[0], sep="\x01", dtype={0: np.float64},
            quoting=csv.QUOTE_NONE, skip_blank_lines=False, na_filter=False, low_memory=False,
            decimal=self.options.decimal, thousands=self.options.thousands,
        )[0]  # fmt: skip
        return pa.array(found.to_numpy(), pa.float64())

    def _marks(self) -> dict[str, Any]:
        return {
            "sep": self.marks.separator.decode(), "quotechar": self.options.quote,
            "decimal": self.options.decimal, "thousands": self.options.thousands,
            "engine": "c", "encoding": "utf-8",
        }  # fmt: skip

    def _gaps(self) -> dict[str, Any]:
        everywhere = sorted(self.options.gaps)
        if not self._own_gaps:
            return {"na_values": everywhere, "keep_default_na": False}
        by_column = {
            column: list(self._own_gaps.get(column, everywhere)) for column in range(self.width)
        }
        return {
            "na_values": {column: gaps for column, gaps in by_column.items() if gaps},
            "keep_default_na": False,
        }


def _arrow(series: pd.Series[Any]) -> pa.Array:
    found = pa.array(series, from_pandas=True)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
