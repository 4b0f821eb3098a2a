"""Check the smoke test's predictions, and derive the run's first output type from them."""

from __future__ import annotations

from collections.abc import Sequence

from peers.predict.errors import InputError, OutputError
from peers.predict.outputs.fitting import fitted_to
from peers.predict.outputs.output_type import OutputType
from peers.predict.outputs.parts import ID, ROW, requested_columns
from peers.predict.predictions import PREDICTION, Columns, Predictions
from peers.predict.spec import Manifest

_HINT = "A model must return numbers, texts, lists or dicts with something in them."


def check_carried(carry: Sequence[str], columns: Sequence[str], *, has_id: bool) -> None:
    """Raise InputError for columns that cannot be copied into the output (--carry)."""
    missing = [name for name in carry if name not in columns]
    if missing:
        raise InputError(
            f"the input has no column {missing[0]!r} for --carry",
            f"It has {', '.join(columns)}: correct --carry.",
        )
    taken = [ROW, *([ID] if has_id else [])]
    clash = [name for name in carry if name in taken or carry.count(name) > 1]
    if clash:
        raise InputError(
            f"the output would have two columns with the name {clash[0]!r}",
            "Leave it out of --carry, or rename it in the input.",
        )


def type_of(manifest: Manifest, predictions: Predictions) -> OutputType | None:
    """Return the output type for these predictions; None if all of them are null.

    Raises OutputError for values that cannot be written, and for columns that the model does not
    return.
    """
    requested = requested_columns(manifest)
    names = _names(predictions)
    wanted = [name for name in requested.chosen if name not in (names or [PREDICTION])]
    if wanted and requested.chosen != (PREDICTION,) and _is_something(predictions):
        raise OutputError(
            f"the model returns no column {wanted[0]!r}",
            f"It returns {', '.join(names or [PREDICTION])}: correct --columns.",
        )
    found, fitted = fitted_to(None, requested, [predictions])
    columns = requested.chosen or names or [PREDICTION]
    clash = [name for name in columns if name in requested.taken]
    if clash:
        raise OutputError(
            f"the model returns a column {clash[0]!r}, a name that the output uses already",
            "Choose other columns with --columns, or carry a column with another name.",
        )
    if fitted.problems and not len(fitted.places):
        raise OutputError(next(iter(fitted.problems.values())), _HINT)
    return found


def _is_something(predictions: Predictions) -> bool:
    return not isinstance(predictions, list) or any(one is not None for one in predictions)


def _names(predictions: Predictions) -> list[str] | None:
    if isinstance(predictions, Columns):
        return list(predictions.values)
    dicts = [one for one in predictions if isinstance(one, dict)]
    if isinstance(predictions, list) and dicts:
        return list(dict.fromkeys(str(key) for one in dicts for key in one))
    return None
