"""Models as people make them: each is fitted on what pandas reads, in the way that is usual."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits


@dataclass(frozen=True)
class Fitted:
    """A model in a file; how people prepare a frame for it, and what it says about that."""

    path: Path
    prepared: Callable[[pd.DataFrame], Any]
    direct: Callable[[Any], Any]
    method: str | None = None


@dataclass(frozen=True)
class Learner:
    """`fit`: on a frame, into a folder. It raises where people could not fit this either."""

    name: str
    fit: Callable[[pd.DataFrame, Path], Fitted]


class Unfit(Exception):  # noqa: N818 - it is no error, there is no such cell
    """Nobody would make such a model of such data."""


def _target(frame: pd.DataFrame) -> Any:
    """What there is to learn: it depends on every column."""
    odd = pd.factorize(frame["odd"].astype(str))[0]
    return ((frame["a b"] > 5).astype(int) + odd % 2 + (frame["age"] > 40).astype(int)) % 2


def _kept(model: Any, folder: Path, prepared: Callable[[pd.DataFrame], Any]) -> Fitted:
    path = folder / "model.joblib"
    joblib.dump(model, path)
    return Fitted(path, prepared, model.predict_proba, "predict_proba")


def _features(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["a b", "age", "odd"]]


def _estimator(make: Callable[[pd.DataFrame], Any]) -> Callable[[pd.DataFrame, Path], Fitted]:
    def fit(frame: pd.DataFrame, folder: Path) -> Fitted:
        model = make(frame).fit(_features(frame), _target(frame))
        return _kept(model, folder, _features)

    return fit


def _by_columns(frame: pd.DataFrame) -> Any:
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    odd = OneHotEncoder(handle_unknown="ignore")
    if frame["odd"].dtype.kind in "fiu":
        odd = numbers
    return make_pipeline(
        ColumnTransformer([("numbers", numbers, ["a b", "age"]), ("odd", odd, ["odd"])]),
        DecisionTreeClassifier(max_depth=6, random_state=1),
    )


def _encoder_first(_: pd.DataFrame) -> Any:
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_pipeline(encoder, DecisionTreeClassifier(max_depth=6, random_state=1))


def _numbers_only(frame: pd.DataFrame) -> Any:
    if frame["odd"].dtype.kind not in "fiub":
        raise Unfit
    steps = [SimpleImputer()] if frame["odd"].isna().any() else []
    return make_pipeline(*steps, StandardScaler(), LogisticRegression())


def _strict(frame: pd.DataFrame) -> Any:
    """It takes no gaps."""
    if frame["odd"].dtype.kind not in "fiub" or frame["odd"].isna().any():
        raise Unfit
    return LogisticRegression(max_iter=20)


def _own_function(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"a": frame["a b"], "n": frame["odd"].astype(str).str.len()})


def _function_first(_: pd.DataFrame) -> Any:
    return make_pipeline(
        FunctionTransformer(_own_function), DecisionTreeClassifier(max_depth=6, random_state=1)
    )


def _with_categories(frame: pd.DataFrame) -> pd.DataFrame:
    frame = _features(frame).copy()
    if frame["odd"].dtype.kind not in "fiub":
        frame["odd"] = frame["odd"].astype("category")
    return frame


def _boosted(make: Callable[[], Any]) -> Callable[[pd.DataFrame, Path], Fitted]:
    def fit(frame: pd.DataFrame, folder: Path) -> Fitted:
        prepared = _with_categories(frame)
        if prepared["odd"].dtype.name == "category":
            kinds = {type(one) for one in prepared["odd"].cat.categories}
            if not kinds <= {str, bool}:
                raise Unfit
        return _kept(make().fit(prepared, _target(frame)), folder, _with_categories)

    return fit


def _histogram() -> Any:
    return HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=5)


def _lightgbm() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1)


def _xgboost() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=5, enable_categorical=True, n_jobs=1)


def _words(frame: pd.DataFrame, folder: Path) -> Fitted:
    if pd.api.types.infer_dtype(frame["odd"], skipna=True) != "string":
        raise Unfit
    texts = frame["odd"].dropna()
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    model.fit(texts, np.arange(len(texts)) % 3 % 2)
    return _kept(model, folder, lambda one: one["odd"])


def _matrix(frame: pd.DataFrame, folder: Path) -> Fitted:
    if frame["odd"].dtype.kind not in "fiub":
        raise Unfit
    model = RandomForestClassifier(5, random_state=1)
    model.fit(_features(frame).to_numpy(dtype=float), _target(frame))
    return _kept(model, folder, lambda one: _features(one).to_numpy(dtype=float))


def _onnx(frame: pd.DataFrame, folder: Path) -> Fitted:
    import onnxruntime
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    if frame["odd"].dtype.kind not in "fiub" or frame["odd"].isna().any():
        raise Unfit
    values = _features(frame).to_numpy(np.float32)
    model = DecisionTreeClassifier(max_depth=6, random_state=1).fit(values, _target(frame))
    made = convert_sklearn(
        model, initial_types=[("x", FloatTensorType([None, 3]))], options={"zipmap": False}
    )
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    session = onnxruntime.InferenceSession(path)
    return Fitted(
        path,
        lambda one: _features(one).to_numpy(np.float32),
        lambda values: session.run(None, {"x": values})[1],
        "predict_proba",
    )


def _quietly(fit: Callable[[pd.DataFrame, Path], Fitted]) -> Callable[[pd.DataFrame, Path], Fitted]:
    def quiet(frame: pd.DataFrame, folder: Path) -> Fitted:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # that it could be fitted better
            return fit(frame, folder)

    return quiet


LEARNERS: Final = tuple(
    Learner(name, _quietly(fit))
    for name, fit in {
        "pipeline by columns": _estimator(_by_columns),
        "encoder first": _estimator(_encoder_first),
        "scaler first": _estimator(_numbers_only),
        "logistic regression": _estimator(_strict),
        "function first": _estimator(_function_first),
        "histogram boosting": _boosted(_histogram),
        "LightGBM": _boosted(_lightgbm),
        "XGBoost": _boosted(_xgboost),
        "ONNX": _onnx,
        "TF-IDF": _words,
        "matrix": _matrix,
    }.items()
)
