"""Each column has one type: the model's word first, then --types, the schema, and the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from peers.cli.predict.options import TYPE_NAMES
from peers.predict.errors import InputError
from peers.predict.inputs.column_kinds import TypeName
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.inputs.column_types import Decision, decide
from peers.predict.models import Signature
from peers.predict.models.fitted import signature_of
from peers.predict.signature import Feature

_GUESSED = {b"peers.guessed": b"1"}
_FRAME = pd.DataFrame(
    {
        "amount": [1.0, 2.0, 3.0, 4.0],
        "zip": ["01067", "10115", "01067", "80331"],
        "vip": [True, False, True, False],
        "level": [1, 2, 3, 1],
        "note": ["good", "bad", "good one", "bad one"],
    }
)
_LABELS = [0, 1, 0, 1]


def _guessed(**types: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, type_, metadata=_GUESSED) for name, type_ in types.items()])


def _decided(
    features: list[Feature], schema: pa.Schema, types: dict[str, Any] | None = None, **said: Any
) -> Decision:
    signature = Signature(tuple(features), form="frame", is_estimator=True)
    return decide(signature, schema, ColumnOptions("m.joblib", types or {}, **said), {})


def _kinds(model: Any, columns: list[str]) -> dict[str, str]:
    signature = signature_of(model.fit(_FRAME[columns], _LABELS))
    assert signature.features is not None
    return {str(one.name): one.kind for one in signature.features}


# ------------------------------------------------------------------------ what the model says


def test_a_pipeline_says_what_each_of_its_columns_was_fitted_on() -> None:
    """Whoever picks the columns: by name, by place, by a mask, a slice or a callable."""
    made = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [0]),
            ("codes", OneHotEncoder(), [False, True, False, False, False]),
            ("levels", OrdinalEncoder(), slice("level", "level")),
            ("truths", OneHotEncoder(), make_column_selector(dtype_include=bool)),
            ("words", TfidfVectorizer(), "note"),
        ]
    )
    expected = {
        "amount": "number", "zip": "text", "vip": "boolean", "level": "integer", "note": "text",
    }  # fmt: skip
    pipeline = make_pipeline(made, LogisticRegression())
    assert _kinds(pipeline, list(_FRAME)) == expected
    assert (
        _kinds(GridSearchCV(pipeline, {}, cv=[([0, 1, 2, 3], [0, 1, 2, 3])]), list(_FRAME))
        == expected
    )


@pytest.mark.parametrize(
    ("model", "column", "kind", "gaps"),
    [
        (make_pipeline(StandardScaler(), LogisticRegression()), "amount", "number", False),
        (make_pipeline(SimpleImputer(), LogisticRegression()), "amount", "number", True),
        (make_pipeline(StandardScaler(), HistGradientBoostingClassifier()), "amount", "number",
         True),
        (make_pipeline(OneHotEncoder(), LogisticRegression()), "zip", "text", False),
        (make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression()), "zip", "text",
         True),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder()), "zip", "text",
         True),
        (make_pipeline(OrdinalEncoder(), LogisticRegression()), "zip", "text", False),
        (make_pipeline(OrdinalEncoder(), HistGradientBoostingClassifier()), "zip", "text", True),
        (make_pipeline(FeatureUnion([("a", OneHotEncoder()), ("b", OrdinalEncoder())])), "zip",
         "text", False),
        (make_pipeline(FunctionTransformer(np.log), LogisticRegression()), "amount", "anything",
         None),
        (make_pipeline("passthrough", LogisticRegression()), "amount", "number", False),
    ],
)  # fmt: skip
def test_a_pipeline_says_whether_gaps_may_come(
    model: Any, column: str, kind: str, gaps: bool | None
) -> None:
    """A step that hands on its gaps leaves them to the next one; who fills them takes them."""
    signature = signature_of(model.fit(_FRAME[[column]], _LABELS))
    assert signature.features is not None
    (one,) = signature.features
    assert (one.kind, one.accepts_missing) == (kind, gaps)


@pytest.mark.parametrize("library", ["LightGBM", "XGBoost", "scikit-learn"])
def test_a_boosted_model_knows_its_categories(library: str) -> None:
    """All of them, in their order; LightGBM's columns are found by their own names."""
    frame = pd.DataFrame({"a b": _FRAME["amount"], "zip": _FRAME["zip"].astype("category")})
    frame, labels = pd.concat([frame] * 30, ignore_index=True), _LABELS * 30
    if library == "LightGBM":
        model: Any = pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=2, verbose=-1)
    elif library == "XGBoost":
        model = pytest.importorskip("xgboost").XGBClassifier(
            n_estimators=2, enable_categorical=True
        )
    else:
        model = HistGradientBoostingClassifier(max_iter=2, categorical_features="from_dtype")
    signature = signature_of(model.fit(frame, labels))
    schema = pa.schema([("key", pa.int64()), ("zip", pa.string()), ("a b", pa.float64())])
    decision = decide(signature, schema, ColumnOptions("m"), {})
    assert decision.features == ("a b", "zip")
    assert signature.features is not None
    assert signature.features[1].categories == ("01067", "10115", "80331")
    assert decision.required == ()


def test_a_name_that_fits_two_columns_is_refused() -> None:
    """LightGBM cannot tell `a b` from `a_b`, so neither is guessed."""
    signature = Signature((Feature("a_b"),), form="frame", blanks_are_underscores=True)
    schema = pa.schema([("a b", pa.float64()), ("a\tb", pa.float64())])
    with pytest.raises(InputError, match="'a_b'"):
        decide(signature, schema, ColumnOptions("m"), {})


# ------------------------------------------------------------------------------ who decides


def test_the_model_says_how_a_text_file_is_read() -> None:
    """Codes stay texts; numbers stay what pandas made of them; late texts make bad rows only."""
    features = [Feature("zip", "text"), Feature("n", "number"), Feature("late", "number")]
    decision = _decided(features, _guessed(n=pa.int64(), zip=pa.int64(), late=pa.string()))
    assert decision.features == ("zip", "n", "late")
    assert decision.schema.types == [pa.string(), pa.int64(), pa.float64()]
    assert {column.source for column in decision.columns} == {"model"}
    (warning,) = decision.warnings
    assert "'late'" in warning


def test_types_come_before_the_schema_and_the_file() -> None:
    """And after the model: what contradicts it is refused, naming both."""
    schema = pa.schema([pa.field("zip", pa.int64()), pa.field("n", pa.int64(), metadata=_GUESSED)])
    decision = _decided([Feature("zip"), Feature("n")], schema, {"zip": "text", "n": "number"})
    assert decision.schema.types == [pa.string(), pa.float64()]
    assert [column.source for column in decision.columns] == ["--types", "--types"]
    with pytest.raises(InputError, match=r"--types zip=integer .* texts such as '01067'"):
        _decided([Feature("zip", "text", known=("01067",))], schema, {"zip": "integer"})
    with pytest.raises(InputError, match="which the input lacks"):
        _decided([Feature("zip")], schema, {"zop": "text"})


@pytest.mark.parametrize(
    ("feature", "type_"),
    [
        (Feature("x", "text", known=("01067",)), pa.int64()),
        (Feature("x", "text"), pa.bool_()),
        (Feature("x", "number"), pa.string()),
        (Feature("x", "number"), pa.timestamp("us")),
        (Feature("x", "number"), pa.dictionary(pa.int32(), pa.string())),
        (Feature("x", "number"), pa.list_(pa.float64())),
        (Feature("x", "boolean"), pa.string()),
        (Feature("x", "category", categories=("a", "b")), pa.int64()),
    ],
)
def test_another_kind_than_the_model_was_fitted_on_is_refused(
    feature: Feature, type_: pa.DataType
) -> None:
    """Naming the column, what the model knows, what the input holds, and the remedy."""
    with pytest.raises(InputError, match=r"m.joblib was fitted on .* in the column 'x'") as refusal:
        _decided([feature], pa.schema([("x", type_)]))
    assert "Convert" in str(getattr(refusal.value, "hint", refusal.value))


@pytest.mark.parametrize(
    ("feature", "type_"),
    [
        (Feature("x", "number"), pa.bool_()),
        (Feature("x", "integer"), pa.float64()),
        (Feature("x", "text"), pa.dictionary(pa.int32(), pa.string())),
        (Feature("x", "text"), pa.large_string()),
        (Feature("x", "text"), pa.null()),
        (Feature("x", "category", categories=(1, 2)), pa.int64()),
        (Feature("x"), pa.list_(pa.float64())),
    ],
)
def test_a_type_of_the_same_kind_stays_as_it_is(feature: Feature, type_: pa.DataType) -> None:
    """It is what pandas would give the model."""
    assert _decided([feature], pa.schema([("x", type_)])).schema.types == [type_]


def test_numbers_where_booleans_were_are_warned_of() -> None:
    """0 and 1 may stand for them."""
    assert (
        "booleans" in _decided([Feature("x", "boolean")], pa.schema([("x", pa.int8())])).warnings[0]
    )


def test_an_index_and_the_ids_are_no_features() -> None:
    """Unless the model names them."""
    index = pa.field("key", pa.int64(), metadata={b"peers.index": b"1"})
    schema = pa.schema([index, ("id", pa.string()), ("x", pa.float64())])
    decision = decide(Signature(), schema, ColumnOptions("m", ids=["id"]), {})
    assert decision.features == ("x",)
    assert decision.schema.names == ["x", "id"]
    named = Signature((Feature("id"), Feature("key")), form="frame")
    assert decide(named, schema, ColumnOptions("m", ids=["id"]), {}).features == ("id", "key")


def test_where_nobody_knows_whether_gaps_may_come_the_user_says_so() -> None:
    """A callable's rows have values, unless --allow-nan; an estimator raises itself."""
    schema = pa.schema([("x", pa.float64())])
    assert decide(Signature(), schema, ColumnOptions("m"), {}).required == ("x",)
    assert decide(Signature(), schema, ColumnOptions("m", allow_nan=True), {}).required == ()
    assert _decided([Feature("x")], schema).required == ()
    assert _decided([Feature("x", accepts_missing=False)], schema).required == ("x",)


def test_texts_for_a_vectorizer_are_found_among_the_columns(tmp_path: Path) -> None:
    """If there is one column of texts; else somebody has to say which."""
    del tmp_path
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(_FRAME["note"], _LABELS)
    signature = signature_of(model)
    assert signature.form == "texts"
    schema = _guessed(n=pa.int64(), words=pa.string())
    assert decide(signature, schema, ColumnOptions("m"), {}).features == ("words",)
    with pytest.raises(InputError, match="one column of texts"):
        decide(signature, _guessed(a=pa.string(), b=pa.string()), ColumnOptions("m"), {})


def test_the_command_line_knows_every_type() -> None:
    """It lists them without importing what decides."""
    assert get_args(TypeName) == TYPE_NAMES
