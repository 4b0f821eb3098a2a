"""Rows with a gap in a feature that the model needs are named, wherever the gap is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from peers.predict.inputs import Rows
from peers.predict.tasks.row_checks import invalid_rows
from tests.predict.test_outputs import a_manifest

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize(
    "values",
    [[], [1, 2], [1, NAN, 2], [NAN], [INF, -INF], [None, 1], [None], [1, NAN, None, INF]],
)
def test_gaps_are_found_in_each_piece_of_a_column(
    tmp_path: Path, values: list[Any], kind: pa.DataType
) -> None:
    """NaN and null are gaps, infinity is none; a column may begin in the middle of a buffer."""
    manifest = replace(a_manifest(tmp_path), required=("x",))
    numpy = kind.to_pandas_dtype()
    piece = pa.array([None if one is None else numpy(one) for one in [NAN, *values]], kind)[1:]
    column = pa.chunked_array([pa.array(np.ones(3, numpy)), piece, piece])
    gaps = [place for place, one in enumerate(column.to_pylist()) if one is None or one != one]
    assert sorted(invalid_rows(Rows(pa.table({"x": column})), manifest)) == gaps
