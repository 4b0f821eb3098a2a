"""Callables that say what they were given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa


def _said(given: Any, rows: int) -> list[str]:
    return [type(given).__name__] * rows


def of_rows(rows: list[dict[str, Any]]) -> list[str]:
    """The default."""
    return _said(rows, len(rows))


def of_anything(rows):  # type: ignore[no-untyped-def]
    """Without an annotation."""
    return _said(rows, len(rows))


def of_a_frame(rows: pd.DataFrame) -> list[str]:
    """With dtypes as pandas reads them."""
    return _said(rows, len(rows))


def of_a_table(rows: pa.Table) -> list[str]:
    """As it was read."""
    return _said(rows, rows.num_rows)


def of_an_array(rows: np.ndarray[Any, Any]) -> list[str]:
    """Numbers only."""
    return _said(rows, len(rows))


def of_arrays(rows: dict[str, np.ndarray[Any, Any]]) -> list[str]:
    """One for each column."""
    return _said(rows, len(rows["x"]))


def of_a_series(rows: pd.Series) -> list[str]:  # type: ignore[type-arg,unused-ignore]
    """Which rows of several columns are none."""
    return _said(rows, len(rows))


class OfAFrame:
    """An instance that is called."""

    def __call__(self, rows: pd.DataFrame) -> list[str]:
        """With dtypes as pandas reads them."""
        return _said(rows, len(rows))
