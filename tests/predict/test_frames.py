"""Frames of a chunk equal the same rows of what pandas reads from the whole file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from peers.predict import models
from peers.predict.errors import ModelError
from peers.predict.models import Trust
from peers.predict.models.frames import frame
from peers.predict.signature import Feature

MODULE = "tests.predict.callables_for_tests"


def _table(type_: pa.DataType, values: list[Any], reader: str, **marks: str) -> pa.Table:
    metadata = {f"peers.{name}": mark for name, mark in marks.items()}
    field = pa.field("x", type_, metadata=metadata or None)
    return pa.table([pa.array(values, type_)], schema=pa.schema([field], {"peers.reader": reader}))


def _objects(*values: Any) -> pd.Series[Any]:
    return pd.Series(list(values), dtype=object)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (_table(pa.int64(), [1, 2], "csv", nulls="1"), pd.Series([1.0, 2.0])),
        (_table(pa.int64(), [1, 2], "parquet"), pd.Series([1, 2])),
        (_table(pa.bool_(), [True, False], "csv", nulls="1"), _objects(True, False)),
        (_table(pa.bool_(), [True, None], "csv", nulls="1"), _objects(True, np.nan)),
        (_table(pa.bool_(), [True, None], "json", nulls="1"), _objects(True, None)),
        (_table(pa.null(), [None], "csv"), pd.Series([np.nan])),
        (_table(pa.null(), [None], "parquet"), _objects(None)),
        (_table(pa.int16(), [1], "query"), pd.Series([1])),
        (_table(pa.string(), [None], "query", nulls="all"), _objects(None)),
        (_table(pa.string(), ['{"a": [1]}', None], "json", type="json"),
         _objects({"a": [1]}, None)),
        # of a column with numbers, texts and gaps, rows that happen to lack the texts
        (_table(pa.string(), ["7", None], "json", type="json"), _objects(7, None)),
        (_table(pa.string(), ["1", "2"], "json", type="json"), _objects(1, 2)),
    ],
)  # fmt: skip
def test_a_chunk_looks_as_it_would_in_the_whole(table: pa.Table, expected: pd.Series[Any]) -> None:
    """Also one without a gap, of a column that has gaps elsewhere."""
    found = frame(table, {}, ["x"])["x"]
    pd.testing.assert_series_equal(found, expected.rename("x"), check_exact=True)
    assert [type(one) for one in found] == [type(one) for one in expected]


def test_texts_are_as_the_reader_has_them() -> None:
    """NaN in a CSV; None in JSON, until pandas 3 has one type for texts."""
    for reader, gap in (("csv", np.nan), ("json", None), ("parquet", None)):
        found = frame(_table(pa.string(), ["a", None], reader), {}, ["x"])["x"]
        expected = pd.Series(["a", gap])
        assert found.dtype == expected.dtype
        assert type(found[1]) is type(expected[1])


def test_the_models_own_categories_and_gaps_come_before_the_readers() -> None:
    """An encoder that was fitted on None knows no NaN."""
    table = _table(pa.string(), ["b", None, "z"], "csv")
    known = {"x": Feature("x", "category", categories=("a", "b"))}
    found = frame(table, known, ["x"])["x"]
    assert found.cat.codes.tolist() == [1, -1, 2]
    assert found.cat.categories.tolist() == ["a", "b", "z"]
    assert frame(table, {"x": Feature("x", "text", missing_as="none")}, ["x"])["x"][1] is None
    assert frame(table, {"x": Feature("x", "text", missing_as="nan")}, ["x"])["x"].isna()[1]


def test_a_model_gets_the_names_that_it_knows() -> None:
    """Where the input has others for them."""
    found = frame(pa.table({"a b": [1.0]}), {}, ["a_b"])
    assert found.columns.tolist() == ["a_b"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("of_rows", "list"), ("of_anything", "list"), ("of_a_frame", "DataFrame"),
        ("of_a_table", "Table"), ("of_an_array", "ndarray"), ("of_arrays", "dict"),
        ("OfAFrame", "DataFrame"),
    ],
)  # fmt: skip
def test_a_callable_gets_what_its_annotation_asks_for(name: str, kind: str) -> None:
    """A list of dicts by default."""
    model = models.load(models.resolve(f"{MODULE}:{name}", None), Trust((), (MODULE,)))
    assert model.predict(pa.table({"x": [1.0, 2.0], "y": [1, 2]})) == [kind, kind]


def test_an_annotation_that_nobody_can_fulfil_is_refused() -> None:
    """Naming those that are known."""
    with pytest.raises(ModelError, match=r"takes .*Series"):
        models.load(models.resolve(f"{MODULE}:of_a_series", None), Trust((), (MODULE,)))
