"""More than one output column: what models may return, and what users choose of it."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from peers.predict import models
from peers.predict.errors import InputError, ModelError, OutputError
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.inputs.column_types import decide
from peers.predict.models import Trust
from peers.predict.outputs import check_carried, type_of
from peers.predict.outputs.fitting import RequestedColumns, fitted_to
from peers.predict.predictions import by_class, predictions_of
from peers.predict.spec import schema_text
from tests.predict.test_outputs import a_manifest

sparse = pytest.importorskip("scipy.sparse")
ALL = RequestedColumns((), ("row", "id"))
Scored = namedtuple("Scored", ["label", "score"])  # as models have them


def columns_of(result: Any, rows: int = 2, asked: RequestedColumns = ALL) -> dict[str, list[Any]]:
    """The output's columns of what a model returned."""
    found = fitted_to(None, asked, [predictions_of(result, rows, "the model")])[1]
    assert found.problems == {}
    columns: dict[str, list[Any]] = found.table.to_pydict()
    return columns


TWO = {"a": [1, 2], "b": ["x", "y"]}


@pytest.mark.parametrize(
    "result",
    [
        TWO,
        {"a": np.array([1, 2]), "b": pd.Series(["x", "y"])},
        {"a": pa.chunked_array([[1], [2]]), "b": ("x", "y")},
        [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
        pd.DataFrame(TWO),
        pd.DataFrame(TWO, index=[7, 9]),
        pd.DataFrame(TWO).convert_dtypes(dtype_backend="pyarrow"),
        pd.DataFrame({"a": [1, 2], "b": pd.Categorical(["x", "y"])}),
        pa.table(TWO),
        pa.record_batch(TWO),
        np.array([(1, "x"), (2, "y")], dtype=[("a", "i8"), ("b", "U1")]),
    ],
    ids=lambda result: type(result).__name__,
)
def test_what_has_names_becomes_columns(result: Any) -> None:
    """A dict, a list of dicts, frames, tables, structured arrays: all the same."""
    assert columns_of(result) == TWO


@pytest.mark.parametrize(
    ("result", "columns"),
    [
        ((np.array([1, 2]), np.array(["x", "y"])), {"prediction_0": [1, 2],
            "prediction_1": ["x", "y"]}),
        (Scored(np.array(["x", "y"]), np.array([0.5, 1])), {"label": ["x", "y"],
            "score": [0.5, 1.0]}),
        ((np.zeros((2, 1)), np.ones(2)), {"prediction_0": [[0.0], [0.0]],
            "prediction_1": [1.0, 1.0]}),
        ((1, 2), {"prediction": [1, 2]}),
        ([[1, 2], [3, 4]], {"prediction": [[1, 2], [3, 4]]}),
        ([np.array([1, 2]), np.array([3])], {"prediction": [[1, 2], [3]]}),
        (np.array([[1, 2], [3, 4]]), {"prediction": [[1, 2], [3, 4]]}),
        (sparse.csr_matrix(np.eye(2)), {"prediction": [[1.0, 0.0], [0.0, 1.0]]}),
        (pd.Series([1, None], dtype="Int64"), {"prediction": [1, None]}),
        (pd.Series(["x", None]), {"prediction": ["x", None]}),
        (pd.Series([pd.NA, 1], dtype=object), {"prediction": [None, 1]}),
        (pd.Categorical(["x", "y"]), {"prediction": ["x", "y"]}),
        (pa.array([1, None]), {"prediction": [1, None]}),
        (np.ma.masked_array([1, 2], [False, True]), {"prediction": [1, None]}),
        ([{"a": 1}, {"b": 2}], {"prediction": [{"a": 1, "b": None}, {"a": None, "b": 2}]}),
        ([{"a": {"b": 1}}, None], {"a": [{"b": 1}, None]}),
        ([None, None], {"prediction": [None, None]}),
        (np.array([1, "x", None], dtype=object)[:2], None),
    ],
)  # fmt: skip
def test_what_has_none_is_one_column(result: Any, columns: dict[str, list[Any]] | None) -> None:
    """But for tuples of arrays; what has no type in common names the row."""
    if columns is None:
        found = fitted_to(None, ALL, [predictions_of(result, 2, "the model")])[1]
        assert list(found.problems) == [1]
    else:
        assert columns_of(result) == columns


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"a": [1]}, "in its column 'a', returned 1 result for 2 rows"),
        ({"a": 1}, "a int in its column 'a'"),
        ({}, "no columns"),
        ((np.array([1]), np.array([1, 2])), "'prediction_0', returned 1 result for 2 rows"),
        (pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]), "'a' twice"),
        (pd.Series([2, 1], index=[1, 0]), "in another order, by their index"),
        (pd.DataFrame({"a": [2, 1]}, index=[1, 0]), "in another order, by their index"),
        ({"a": pd.Series([2, 1], index=[1, 0])}, "'a', returned rows in another order"),
        (np.float64(1), "one value for 2 rows"),
        ("ab", "returned a str for 2 rows"),
        (None, "returned a NoneType"),
        (iter([1, 2]), "returned a list_iterator"),
    ],
)
def test_what_has_no_value_for_each_row_is_refused(result: Any, said: str) -> None:
    """It is the model's fault, not a row's."""
    with pytest.raises(ModelError, match=said):
        predictions_of(result, 2, "the model")


def test_probabilities_have_the_names_of_their_classes() -> None:
    """Those of an estimator with several outputs, too; of other shapes, none."""
    chances = np.array([[0.25, 0.75], [1.0, 0.0]])
    assert columns_of(by_class(chances, ["no", "yes"])) == {
        "proba_no": [0.25, 1.0],
        "proba_yes": [0.75, 0.0],
    }
    both = by_class((chances, chances[:, :1]), [[0, 1], ["only"]])
    assert list(both) == ["proba_0_0", "proba_0_1", "proba_1_only"]
    assert columns_of(by_class(chances, None)) == {"prediction": chances.tolist()}


def test_columns_are_chosen_and_the_whole_result_can_be_one() -> None:
    """In the order in which they are named."""
    assert list(columns_of(TWO, asked=RequestedColumns(("b", "a"), ()))) == ["b", "a"]
    assert columns_of(TWO, asked=RequestedColumns(("b",), ())) == {"b": ["x", "y"]}
    whole = columns_of(TWO, asked=RequestedColumns(("prediction",), ()))
    assert whole == {"prediction": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}


def test_rows_keep_their_columns_over_batches() -> None:
    """A dict of columns in one batch, rows in the next, nothing in a third."""
    now, _ = fitted_to(None, ALL, [predictions_of(TWO, 2, "m")])
    rows = [{"b": "z", "a": 0.5, "c": True}, None, 7, {"a": "text", "b": "w"}, {"id": 1}]
    now, found = fitted_to(now, ALL, [rows, predictions_of({"c": [False]}, 1, "m")])
    assert found.table.to_pylist() == [
        {"a": 0.5, "b": "z", "c": True},
        {"a": None, "b": None, "c": None},
        {"a": None, "b": None, "c": False},
    ]
    assert found.problems.keys() == {2, 3, 4}
    assert "'id', a name that the output uses already" in found.problems[4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"columns": ("score", "a")}, "no column 'score'.*It returns a, b"),
        ({"carry": ("a",)}, "'a', a name that the output uses already"),
    ],
)
def test_the_trial_refuses_columns_that_are_not_there(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Naming those that are; and names that the output would have twice."""
    manifest = replace(a_manifest(tmp_path), **changes)
    source = pa.schema([("x", pa.float64()), ("id", pa.string()), ("a", pa.string())])
    manifest = replace(manifest, input=replace(manifest.input, arrow_schema=schema_text(source)))
    with pytest.raises(OutputError, match=f"(?s){said}"):
        type_of(manifest, predictions_of(TWO, 2, "m"))
    assert type_of(a_manifest(tmp_path), [None]) is None
    with pytest.raises(OutputError, match="a dict without keys, which Parquet cannot hold"):
        type_of(a_manifest(tmp_path), [{}])


@pytest.mark.parametrize(
    ("carry", "said"),
    [
        (["nowhere"], "no column 'nowhere' for --carry.*It has x, id, row"),
        (["row"], "two columns with the name 'row'"),
        (["id"], "two columns with the name 'id'"),
    ],
)
def test_what_cannot_be_carried_is_refused(carry: list[str], said: str) -> None:
    """Before anything is tried; without an id column, `id` is a name like others."""
    with pytest.raises(InputError, match=f"(?s){said}"):
        check_carried(carry, ["x", "id", "row"], has_id=True)
    check_carried(["x", "id"], ["x", "id", "row"], has_id=False)


def test_what_is_carried_is_no_feature_where_the_model_takes_fewer(tmp_path: Path) -> None:
    """A callable gets it beside the others; an estimator of a known number of columns does not."""
    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0, 1]), tmp_path / "line.joblib")
    trust = Trust((tmp_path,), ("tests.predict.models_with_columns",))
    source = pa.schema([("x", pa.float64()), ("id", pa.string()), ("name", pa.string())])
    carried = ColumnOptions("m", ids=["id"], carry=["name"])
    line = models.load(models.resolve(str(tmp_path / "line.joblib"), None), trust)
    decision = decide(line.signature, source, carried, {})
    assert (decision.features, decision.schema.names) == (("x",), ["x", "id", "name"])
    named = models.resolve("tests.predict.models_with_columns:labelled", None)
    labelled = models.load(named, trust)
    assert decide(labelled.signature, source, carried, {}).features == ("x", "name")
    with pytest.raises(InputError, match="has 2: x, name"):
        decide(line.signature, source, ColumnOptions("m", ids=["id"]), {})
