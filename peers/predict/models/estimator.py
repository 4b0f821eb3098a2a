"""Load and call estimators of scikit-learn, LightGBM and XGBoost from joblib or pickle files."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from peers.predict import predictions
from peers.predict.errors import ModelError
from peers.predict.models import boosting
from peers.predict.models.base import Predictions, needed, threads
from peers.predict.models.fitted import signature_of
from peers.predict.models.frames import argument
from peers.predict.models.modules import see_current_directory

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
_DEFAULT_METHOD: Final = "predict"
_METHODS: Final = ("predict", "predict_proba", "decision_function", "transform", "score_samples")


class EstimatorModel:
    """An estimator in a trusted file. The file is code, so the caller has checked its trust.

    An estimator that was fitted on a data frame gets a data frame. Raises ModelError if it cannot
    be loaded, has no such method, or needs a package that is missing.
    """

    asynchronous = False

    def __init__(self, path: Path, method: str | None) -> None:
        self._estimator = estimator = _load(path)
        self._name = f"{path.name} ({type(estimator).__name__})"
        self._method = _method(estimator, method or _DEFAULT_METHOD, self._name)
        self._is_proba = method == "predict_proba"
        parts = list(_parts(estimator, set()))
        signature = signature_of(estimator)
        if (
            signature.features is None
            and signature.form == "matrix"
            and any(map(_has_names, parts))
        ):
            # a wrapper that holds such an estimator, but has no names itself
            signature = replace(signature, form="frame")
        self.signature = signature
        if signature.form == "frame":
            with needed("pandas", f"{self._name} was trained on a data frame and"):
                import pandas as _  # noqa: F401
        for part in parts:
            _bound_threads(part)

    def predict(self, table: pa.Table) -> Predictions:
        """Return what the method returns for the rows; see `predictions` for the columns."""
        result = self._method(self.argument(table))
        if isinstance(result, list) and all(isinstance(one, np.ndarray) for one in result):
            result = tuple(result)  # one array for each output
        if self._is_proba:
            classes = getattr(self._estimator, "classes_", None)
            result = predictions.by_class(result, classes)
        return predictions.predictions_of(result, table.num_rows, self._name)

    async def predict_async(self, table: pa.Table) -> Predictions:
        """Return the same: an estimator computes and never waits."""
        return self.predict(table)

    def argument(self, table: pa.Table) -> Any:
        """Return the rows in the form that the method takes."""
        return argument(table, self.signature)


def _load(path: Path) -> Any:
    with needed("scikit-learn", f"The model {path.name}"):
        import joblib
        import sklearn as _  # noqa: F401
    see_current_directory()  # a pipeline may use functions of a module beside it
    try:
        # an open file, so that parts in other files, which no digest covers, are refused
        with path.open("rb") as stream, warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")  # the first warning is that of another version
            loaded = joblib.load(stream)
    except Exception as error:
        raise ModelError(
            f"The model {path} cannot be loaded: {type(error).__name__}: {error}",
            _hint(error),
        ) from error
    for text in sorted({str(warning.message) for warning in seen}):
        _log.warning("loading %s: %s", path, text)
    return loaded


def _hint(error: Exception) -> str:
    if isinstance(error, AttributeError) and "main__'" in str(error):
        return (
            "It was defined in the notebook or script that wrote the model, which holds only its "
            "name. Move it to a module, import it from there, and write the model again."
        )
    if isinstance(error, ModuleNotFoundError):
        return f"The module is searched in {Path.cwd()} and among the installed packages."
    return "joblib.dump must have written it, and the packages that it needs must be installed."


def _method(estimator: Any, method: str, name: str) -> Any:
    try:
        found = getattr(estimator, method, None)
    except Exception as error:  # a property of foreign code may raise anything
        raise ModelError(f"{name} has no method {method}: {error}") from error
    if callable(found):
        return found
    others = [other for other in _METHODS if callable(getattr(estimator, other, None))]
    raise ModelError(
        f"{name} has no method {method}",
        f"It has {', '.join(others)}: choose by --method." if others else "Is it an estimator?",
    )


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield all nested estimators, including fitted ones, which get_params(deep=True) omits."""
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


def _has_names(part: Any) -> bool:
    """Return whether it was fitted on a data frame."""
    if not boosting.is_known(part):
        return "feature_names_in_" in vars(part)
    try:
        return boosting.names_of(part) is not None
    except Exception:  # noqa: BLE001  # a template that was never fitted
        return False


def _bound_threads(part: Any) -> None:
    wanted = getattr(part, "n_jobs", None)
    if wanted is not None:  # -1 means all cores; without the setting it must stay without threads
        part.n_jobs = threads() if wanted < 0 else min(wanted, threads())
