"""scikit-learn's estimators, as joblib or pickle wrote them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from peers.predict import results
from peers.predict.errors import ModelError
from peers.predict.models import columns as pick
from peers.predict.models.base import Predictions, needed, threads

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
_DEFAULT_METHOD: Final = "predict"
_METHODS: Final = ("predict", "predict_proba", "decision_function", "transform", "score_samples")


class EstimatorModel:
    """An estimator in a trusted file. The file is code: who makes this has checked it.

    Raises ModelError if it can't be loaded, has no such method, or wants what is not here.
    """

    asynchronous = False

    def __init__(self, path: Path, method: str | None) -> None:
        self._estimator = estimator = _load(path)
        self._name = f"{path.name} ({type(estimator).__name__})"
        self._method = _method(estimator, method or _DEFAULT_METHOD, self._name)
        self._is_proba = method == "predict_proba"
        names = getattr(estimator, "feature_names_in_", None)
        self._names = None if names is None else [str(name) for name in names]
        self._count: int | None = getattr(estimator, "n_features_in_", None)
        parts = list(_parts(estimator, set()))
        self._wants_frame = any(_by_name(part) for part in parts)
        if self._wants_frame:
            with needed("pandas", f"{self._name} was trained on a data frame and"):
                import pandas as _  # noqa: F401  # type: ignore[import-untyped,unused-ignore]
        for part in parts:
            _fit_in(part, keep_names=self._wants_frame)

    def features(self, columns: Mapping[str, str], leave_out: Sequence[str]) -> list[str]:
        """Those it was trained on by name, else all that are not left out, in the file's order."""
        if self._names is not None:
            chosen = pick.named(columns, self._names, self._name)
        elif self._count is not None:
            chosen = pick.number_of(columns, leave_out, self._count, self._name)
        else:
            chosen = pick.all_but(columns, leave_out)
        if not self._wants_frame:
            pick.check_types(columns, chosen, None, self._name)
        return chosen

    def predict(self, table: pa.Table) -> Predictions:
        """What the method returns for the rows; `results` says which columns that is."""
        result = self._method(table.to_pandas() if self._wants_frame else pick.matrix(table))
        if isinstance(result, list) and all(isinstance(one, np.ndarray) for one in result):
            result = tuple(result)  # one array for each output
        if self._is_proba:
            classes = getattr(self._estimator, "classes_", None)
            result = results.by_class(result, classes)
        return results.predictions_of(result, table.num_rows, self._name)

    async def predict_async(self, table: pa.Table) -> Predictions:
        """An estimator computes, and never waits."""
        return self.predict(table)


def _load(path: Path) -> Any:
    with needed("scikit-learn", f"The model {path.name}"):
        import joblib
        import sklearn as _  # noqa: F401
    try:
        # from an open file: parts in other files, which no digest covers, are refused
        with path.open("rb") as stream, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")  # first of all, that it is of another version
            loaded = joblib.load(stream)
    except Exception as error:
        raise ModelError(
            f"The model {path} cannot be loaded: {type(error).__name__}: {error}",
            "It must be what joblib.dump wrote, and what it is made of must be installed here.",
        ) from error
    for text in sorted({str(warning.message) for warning in seen}):
        _log.warning("loading %s: %s", path, text)
    return loaded


def _method(estimator: Any, method: str, name: str) -> Any:
    try:
        found = getattr(estimator, method, None)
    except Exception as error:  # whatever a property of foreign code raises
        raise ModelError(f"{name} has no method {method}: {error}") from error
    if callable(found):
        return found
    others = [other for other in _METHODS if callable(getattr(estimator, other, None))]
    raise ModelError(
        f"{name} has no method {method}",
        f"It has {', '.join(others)}: choose by --method." if others else "Is it an estimator?",
    )


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """The estimators in an estimator, fitted ones too, which get_params(deep=True) leaves out."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, np.ndarray):  # such as the trees of gradient boosting
        value = value.ravel().tolist() if value.dtype == object else []
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _parts(one, seen)
    elif hasattr(value, "get_params") and not isinstance(value, type) and id(value) not in seen:
        seen.add(id(value))
        yield value
        for one in vars(value).values():
            yield from _parts(one, seen)


def _by_name(part: Any) -> bool:
    """Whether it picks columns by name, or hands on data frames: an array won't do for it."""
    selects = type(part).__name__ == "ColumnTransformer" and hasattr(part, "feature_names_in_")
    return selects or "_sklearn_output_config" in vars(part)


def _fit_in(part: Any, *, keep_names: bool) -> None:
    """Bound its threads; and as columns always come in its order, let it not ask for names.

    To ignore the warning instead, one would have to change the whole process's filters.
    """
    wanted = getattr(part, "n_jobs", None)
    if wanted is not None:  # -1 are all cores; who asked for none had better stay without threads
        part.n_jobs = threads() if wanted < 0 else min(wanted, threads())
    if not keep_names:
        vars(part).pop("feature_names_in_", None)
