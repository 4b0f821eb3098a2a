"""Any callable of a trusted module: list of rows in, results out."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from peers.predict.errors import ModelError
from peers.predict.inputs import plain_rows
from peers.predict.models import columns as pick
from peers.predict.results import Predictions, predictions_of

if TYPE_CHECKING:
    import pyarrow as pa


class FunctionModel:
    """A function, or an instance, made once, of a class whose `__call__` is the function.

    It gets a list of dicts (column: Python value) and returns a list with a result for each, or
    what else `results` names; an exception in a list stands for a row without one. `async def`
    makes it asynchronous. Raises ModelError if it is not there or can't be called.
    """

    def __init__(self, name: str, module: ModuleType, attribute: str) -> None:
        self._name = name
        self._function = _callable(name, module, attribute)
        self.asynchronous = _is_async(self._function)

    def features(self, columns: Mapping[str, str], leave_out: Sequence[str]) -> list[str]:
        """All that are not left out."""
        return pick.all_but(columns, leave_out)

    def predict(self, table: pa.Table) -> Predictions:
        """What it returns, checked to be of the right length."""
        if self.asynchronous:
            return asyncio.run(self.predict_async(table))
        return self._checked(self._function(plain_rows(table)), table.num_rows)

    async def predict_async(self, table: pa.Table) -> Predictions:
        """The same, awaited."""
        result = self._function(plain_rows(table))
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


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(type(function), "__call__", None)  # noqa: B004  # of an instance, for its type
    )
