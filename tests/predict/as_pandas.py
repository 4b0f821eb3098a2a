"""What pandas reads, beside what the chunks of an input are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from peers.predict import inputs
from peers.predict.column_metadata import NULLS
from tests.predict.planned import planned


def frame(table: pa.Table) -> pd.DataFrame:
    """Return the table as pandas reads it when it reads the whole input."""
    found = table.to_pandas()
    for field in table.schema:
        name = field.name
        if name in found and NULLS in (field.metadata or {}):
            if isinstance(found[name].dtype, np.dtype) and found[name].dtype.kind in "iu":
                found[name] = found[name].astype("float64")
            elif found[name].dtype == bool:
                found[name] = found[name].astype(object)
    return found


def assert_reads_as_pandas(place: Path, size: int, truth: pd.DataFrame) -> None:
    """Every chunk has the dtypes and the values of these rows."""
    truth = truth.reset_index(drop=True)
    columns = list(map(str, truth.columns))
    source, chunks = planned(place, size, columns)
    assert source.rows == len(truth)
    for chunk in chunks:
        rows = inputs.read(source, chunk, columns)
        assert not rows.bad
        wanted = truth.iloc[chunk.first : chunk.first + chunk.rows].reset_index(drop=True)
        pd.testing.assert_frame_equal(frame(rows.table), wanted, check_exact=True)
