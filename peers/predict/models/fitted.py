"""Find out what scikit-learn's estimators were fitted on, by walking through the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from peers.predict.models import boosting
from peers.predict.models.encoders import encoded, histogram, is_nan
from peers.predict.signature import Feature, Form, Kind, Signature, merged

_WRAPPED: Final = ("best_estimator_", "estimator_", "regressor_")
_SAME_ROWS: Final = ("Voting", "Stacking", "OneVsRest", "MultiOutput")
_SOME_COLUMNS: Final = ("Bagging", "AdaBoost")
_EMPTY: Final = Feature(accepts_missing=True)


class _Column(NamedTuple):
    """What a step needs in a column, and whether it passes values and missing values on."""

    feature: Feature
    passes_values: bool = False
    passes_missing: bool = False


def signature_of(estimator: Any) -> Signature:
    """Return what the model takes: columns by name if it was fitted on a data frame."""
    rest = features_of(estimator, 1)[0]
    if wants_texts(estimator):
        return Signature(
            (Feature(kind="text", accepts_missing=False),), rest, "texts", is_estimator=True
        )
    names, count = _names_and_count(estimator)
    form: Form = "frame" if names is not None else "matrix"
    if count is None:
        return Signature(None, rest, form, is_estimator=True)
    features = features_of(estimator, count)
    if names is not None:
        named = [replace(one, name=name) for one, name in zip(features, names, strict=True)]
        first = next(iter(_steps([estimator])), estimator)
        # LightGBM replaces characters that its text format cannot hold by _
        renamed = boosting.library_of(first) == "lightgbm"
        return Signature(tuple(named), rest, form, True, renamed)
    return Signature(tuple(features), rest, form, is_estimator=True)


def _names_and_count(estimator: Any) -> tuple[list[str] | None, int | None]:
    first = next(iter(_steps([estimator])), estimator)
    if boosting.is_known(first):
        return boosting.names_of(first), boosting.count_of(first)
    # a pipeline asks its first step, even if that is "passthrough"
    names = getattr(estimator, "feature_names_in_", getattr(first, "feature_names_in_", None))
    count = getattr(estimator, "n_features_in_", getattr(first, "n_features_in_", None))
    return None if names is None else [str(name) for name in names], count


def features_of(estimator: Any, count: int) -> list[Feature]:
    """Return what this estimator or pipeline takes in each of its `count` columns."""
    return [column.feature for column in _chain([estimator], count)]


def wants_texts(estimator: Any) -> bool:
    """Return whether it takes a column of texts, not a table with one column."""
    first = next(iter(_steps([estimator])), None)
    return first is not None and bool(_tag(first, "string")) and not _tag(first, "two_d_array")


def _chain(steps: Sequence[Any], count: int) -> list[_Column]:
    """Return what a chain of steps takes; each step gets what the step before it returns."""
    found = [_Column(Feature(), passes_values=True, passes_missing=True)] * count
    for step in _steps(steps):
        if not any(column.passes_values or column.passes_missing for column in found):
            break
        width = getattr(step, "n_features_in_", count)
        found_in_step = _step(step, width)
        if width != count:  # columns were added or dropped, so it is unknown which is which
            found_in_step = [_together(found_in_step)] * count
        found = [
            _followed(before, after) for before, after in zip(found, found_in_step, strict=True)
        ]
    return found


def _followed(before: _Column, after: _Column) -> _Column:
    """Combine what two successive steps need in a column."""
    feature = before.feature
    if before.passes_values and feature.kind == "anything":
        feature = replace(after.feature, accepts_missing=feature.accepts_missing)
        feature = replace(feature, missing_as=before.feature.missing_as or feature.missing_as)
    if before.passes_missing:
        feature = replace(feature, accepts_missing=after.feature.accepts_missing)
    return _Column(
        feature,
        before.passes_values and after.passes_values,
        before.passes_missing and after.passes_missing,
    )


def _together(columns: Iterable[_Column]) -> _Column:
    listed = list(columns)
    return _Column(
        merged(column.feature for column in listed),
        all(column.passes_values for column in listed),
        any(column.passes_missing for column in listed),
    )


def _steps(steps: Sequence[Any]) -> list[Any]:
    """Return the steps of nested pipelines, without steps that do nothing."""
    flat: list[Any] = []
    for step in steps:
        inner = next((getattr(step, name) for name in _WRAPPED if _has_model(step, name)), None)
        if inner is not None:
            flat += _steps([inner])
        elif type(step).__name__ == "Pipeline":
            flat += _steps([one for _, one in step.steps])
        elif type(step).__name__ == "FrozenEstimator":
            flat += _steps([step.estimator])
        elif not _is_identity(step):
            flat.append(step)
    return flat


def _has_model(step: Any, name: str) -> bool:
    own = vars(step) if hasattr(step, "__dict__") else {}
    # bagging, forests and AdaBoost have several, and a template that was never fitted
    return "estimators_" not in own and hasattr(own.get(name), "get_params")


def _is_identity(step: Any) -> bool:
    if step is None or isinstance(step, str):
        return step != "drop"
    return type(step).__name__ == "FunctionTransformer" and step.func is None


def _step(step: Any, count: int) -> list[_Column]:
    """Return what one step takes in each column."""
    if type(step).__name__ == "ColumnTransformer":
        return _by_column(step, count)
    # each estimator has its own choice and order of columns
    if type(step).__name__.startswith(_SOME_COLUMNS):
        return [_together(c for one in step.estimators_ for c in _inside(one))] * count
    parts = _members(step)
    if parts:
        chains = [_chain([one], count) for one in parts]
        return [_together(column) for column in zip(*chains, strict=True)]
    if boosting.is_known(step):
        return [_Column(one) for one in boosting.features_of(step, count)]
    if len(getattr(step, "categories_", ())) == count and not hasattr(step, "bin_edges_"):
        # a missing value stays missing in what this step returns
        passes = type(step).__name__ == "OrdinalEncoder" and is_nan(step.encoded_missing_value)
        return [_Column(encoded(step, values), False, passes) for values in step.categories_]
    if getattr(step, "is_categorical_", None) is not None:
        return [_Column(one) for one in histogram(step, count)]
    if len(getattr(step, "statistics_", ())) == count:
        return _imputed(step)
    return [_other(step)] * count


def _inside(step: Any) -> list[_Column]:
    return _chain([step], getattr(step, "n_features_in_", 1))


def _members(step: Any) -> list[Any]:
    """Return the nested estimators that get the same rows as this one."""
    if type(step).__name__ == "FeatureUnion":
        return [one for _, one in step.transformer_list if not isinstance(one, str)]
    if hasattr(step, "calibrated_classifiers_"):
        return [step.calibrated_classifiers_[0].estimator]
    if type(step).__name__.startswith(_SAME_ROWS):
        return [one for one in step.estimators_ if hasattr(one, "get_params")]
    return []


def _by_column(step: Any, count: int) -> list[_Column]:
    found: list[list[_Column]] = [[] for _ in range(count)]
    for name, transformer, _ in step.transformers_:
        places = [int(at) for at in step._transformer_to_input_indices.get(name, ())]  # noqa: SLF001
        if places and transformer != "drop":
            columns = _chain([transformer], len(places))
            for place, column in zip(places, columns, strict=True):
                found[place].append(column)
    # a column that no part takes may hold anything
    return [_together(parts) if parts else _Column(_EMPTY) for parts in found]


def _imputed(step: Any) -> list[_Column]:
    """Return an imputer's columns: numbers if its statistics are, otherwise unknown kinds."""
    statistics = np.asarray(step.statistics_)
    missing = step.missing_values
    fills = missing is None or is_nan(missing) or type(missing).__name__ == "NAType"
    columns = []
    for value in statistics.tolist():
        is_text = isinstance(value, str)
        kind: Kind = "number" if statistics.dtype.kind in "fiu" else "anything"
        kind = "text" if is_text and step.strategy != "constant" else kind
        missing_as: Literal["nan", "none"] | None = None
        if fills:
            missing_as = "none" if missing is None else "nan" if kind != "number" else None
        feature = Feature(kind=kind, accepts_missing=fills or None, missing_as=missing_as)
        columns.append(_Column(feature, passes_values=True, passes_missing=not fills))
    return columns


def _other(step: Any) -> _Column:
    """Return any other step's column: scikit-learn's steps need numbers; others are unknown."""
    if not type(step).__module__.startswith("sklearn.") or (
        type(step).__name__ == "FunctionTransformer"
    ):
        return _Column(Feature())
    if _tag(step, "string"):
        return _Column(Feature(kind="text", accepts_missing=False))
    takes = bool(_tag(step, "allow_nan"))
    # scalers pass missing values on; imputers without statistics (KNN, iterative) fill them
    fills = type(step).__module__.startswith("sklearn.impute")
    kind: Kind = "anything" if _tag(step, "categorical") else "number"
    passes = takes and hasattr(step, "transform") and not fills
    return _Column(Feature(kind=kind, accepts_missing=takes), passes_missing=passes)


def _tag(step: Any, name: str) -> Any:
    try:
        from sklearn.utils import get_tags
    except ImportError:  # scikit-learn 1.5 has them as a dict
        return (step._get_tags() if hasattr(step, "_get_tags") else {}).get(name)  # noqa: SLF001
    return getattr(get_tags(step).input_tags, name, None)
