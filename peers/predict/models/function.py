"""Call any callable of a trusted module: it gets rows and returns results."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, get_origin, get_type_hints

from peers.predict.errors import ModelError
from peers.predict.models.frames import argument
from peers.predict.predictions import Predictions, predictions_of
from peers.predict.signature import Form, Signature

if TYPE_CHECKING:
    import pyarrow as pa


_FORMS: Final[dict[str, Form]] = {
    "pandas.DataFrame": "frame", "pyarrow.Table": "table", "numpy.ndarray": "matrix",
}  # fmt: skip
_KNOWN: Final = (
    "Annotate its first parameter as list[dict] (the default), pandas.DataFrame, pyarrow.Table, "
    "numpy.ndarray or dict[str, numpy.ndarray]."
)
_FOREIGN: Final = ("pandas", "pyarrow", "numpy", "polars")


class FunctionModel:
    """A function, or one instance of a class with `__call__`.

    It gets a list of dicts (column: Python value), or the type that its first parameter is
    annotated with. It returns a list with a result for each row, or any other form that
    `predictions` lists. An exception in a list is the error of its row. `async def` makes it
    asynchronous. Raises ModelError if it is missing or cannot be called.
    """

    def __init__(self, name: str, module: ModuleType, attribute: str) -> None:
        self._name = name
        self._function = _callable(name, module, attribute)
        self.asynchronous = _is_async(self._function)
        self.signature = Signature(form=_form(name, self._function))

    def predict(self, table: pa.Table) -> Predictions:
        """Return what the function returns. Raises ModelError for another number of results."""
        if self.asynchronous:
            return asyncio.run(self.predict_async(table))
        return self._checked(self._function(argument(table, self.signature)), table.num_rows)

    async def predict_async(self, table: pa.Table) -> Predictions:
        """Return the same, for asynchronous functions."""
        result = self._function(argument(table, self.signature))
        if self.asynchronous:
            result = await result
        return self._checked(result, table.num_rows)

    def _checked(self, result: Any, rows: int) -> Predictions:
        return predictions_of(result, rows, self._name)


def _callable(name: str, module: ModuleType, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{name}: {module.__name__} has no {attribute}")
        found = getattr(found, part)
    if inspect.isclass(found):
        try:
            found = found()
        except Exception as error:
            raise ModelError(
                f"{name} is a class, and making an instance of it failed: "
                f"{type(error).__name__}: {error}"
            ) from error
    if not callable(found):
        raise ModelError(f"{name} is a {type(found).__name__}, which cannot be called")
    return found


def _form(name: str, function: Any) -> Form:
    """Return the form of rows that its first parameter is annotated with."""
    plain = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = get_type_hints(plain)
    except Exception:  # noqa: BLE001  # a name cannot be resolved: treat it as unannotated
        hints = dict(getattr(plain, "__annotations__", {}))
    parameters = [one for one in inspect.signature(function).parameters if one in hints]
    if not parameters:
        return "rows"
    wanted = hints[parameters[0]]
    origin = get_origin(wanted) or wanted
    if origin in (dict, Mapping):
        return "arrays"
    package = getattr(origin, "__module__", "").partition(".")[0]
    form = _FORMS.get(f"{package}.{getattr(origin, '__name__', '')}")
    if form is None and package in _FOREIGN:
        raise ModelError(f"{name} takes {wanted}, which rows cannot be converted to", _KNOWN)
    return form or "rows"


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004  # of an instance, for its type
    )
