"""Parts and outputs are small: whole numbers as differences, texts with dictionaries."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict import outputs
from peers.predict.outputs.encoding import writer_options
from peers.predict.spec import Chunk
from tests.predict.test_outputs import a_manifest, fitted

_DELTAS = "DELTA_BINARY_PACKED"
_COLUMNS: dict[str, tuple[Any, str]] = {
    "row": ([1, 2], _DELTAS),
    "with.dot": (pa.array([1, -2], pa.int8()), _DELTAS),
    "unsigned": (pa.array([1, 2**63 + 5], pa.uint64()), _DELTAS),
    "lists": ([[1], [2, 3]], _DELTAS),
    "large lists": (pa.array([[1], None], pa.large_list(pa.int32())), _DELTAS),
    "fixed lists": (pa.array([[1, 2], None], pa.list_(pa.int64(), 2)), _DELTAS),
    "structs": ([{"a": 1}, None], _DELTAS),
    "structs in lists": ([[{"a": 1}], []], _DELTAS),
    "maps": (pa.array([[(1, 2)], []], pa.map_(pa.int64(), pa.int64())), _DELTAS),
    "doubles": ([1.5, None], "PLAIN"),
    "lists of doubles": ([[[1.5]], [[], [2.0]]], "PLAIN"),
    "truth": ([True, None], "PLAIN"),
    "decimals": ([decimal.Decimal("1.5"), None], "PLAIN"),
    "times": (pa.array([1, None], pa.timestamp("us")), "PLAIN"),
    "texts": (["a", "b"], "RLE_DICTIONARY"),
    "texts in structs": ([{"a": "b"}, None], "RLE_DICTIONARY"),
    "categories": (pa.array(["a", "b"]).dictionary_encode(), "RLE_DICTIONARY"),
    "tensors": (
        pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(4).reshape(2, 2)), _DELTAS,
    ),
}  # fmt: skip


def test_each_column_is_encoded_as_suits_its_type_and_comes_back(tmp_path: Path) -> None:
    """Nested columns too, whatever their paths in the file are."""
    table = pa.table({name: values for name, (values, _) in _COLUMNS.items()})
    pq.write_table(table, tmp_path / "t.parquet", **writer_options(table.schema))
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == table.to_pylist()
    group = pq.read_metadata(tmp_path / "t.parquet").row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    for column in columns:
        name = next(name for name in _COLUMNS if f"{column.path_in_schema}.".startswith(f"{name}."))
        assert _COLUMNS[name][1] in column.encodings, (name, column.encodings)


def test_row_numbers_and_classes_take_less_than_a_byte_a_row(tmp_path: Path) -> None:
    """They are most of what a part of a classifier holds."""
    manifest, rows = a_manifest(tmp_path), 50_000
    classes = np.random.default_rng(0).integers(0, 2, rows)
    kept = outputs.kept_columns(
        manifest, np.arange(rows), pa.table({"id": pa.nulls(rows, pa.string())})
    )
    part = outputs.write_part(manifest, 0, kept, fitted(manifest, classes))
    assert part.stat().st_size < rows
    found = outputs.rows_of_part(manifest.folder, Chunk(0, 0, rows))
    assert found is not None
    assert len(found) == rows
