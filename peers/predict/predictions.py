"""Turn what a model returns into columns of the output.

One value for each row, in a column named `prediction`:

- a list, a one-dimensional array, a Series, an Arrow array;
- a two-dimensional array or a sparse matrix: a list for each row.

Several columns:

- a dict of arrays or lists (column: one value for each row), a DataFrame, an Arrow table, a
  structured array: columns by their names;
- a tuple of arrays: `prediction_0`, `prediction_1` …, or the field names of a named tuple. A tuple
  of anything but arrays is a list;
- a list of dicts that all have the same keys in the smoke test: a column for each key. A key
  that appears later is a further column, and is null elsewhere;
- `predict_proba` of an estimator: `proba_<class>` for each class; with several outputs
  `proba_<output>_<class>`.

`--columns a,b` keeps only these. `--columns prediction`, for a model without such a column,
keeps each row's whole result in one column: a struct in Parquet, JSON in CSV and JSON Lines.

All chunks of a run share one type for each column: see `outputs.output_type`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from peers.predict.errors import ModelError

PREDICTION: Final = "prediction"
_PROBABILITY: Final = "proba_"
_HINT: Final = "It must return exactly one result for each row, in the order of the rows."


class Columns:
    """Predictions as columns, each with a value for each row."""

    __slots__ = ("_rows", "values")

    def __init__(self, values: Mapping[str, Any], rows: int) -> None:
        self.values = dict(values)
        self._rows = rows

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.as_rows())

    def __getitem__(self, rows: slice) -> Columns:
        return Columns(
            {name: column[rows] for name, column in self.values.items()},
            len(range(self._rows)[rows]),
        )

    def as_rows(self) -> list[dict[str, Any]]:
        """Return a dict for each row."""
        columns = [_listed(column) for column in self.values.values()]
        return [dict(zip(self.values, row, strict=True)) for row in zip(*columns, strict=True)]


Predictions: TypeAlias = "list[Any] | np.ndarray[Any, Any] | pa.Array | Columns"
"""One for each row, in order. An exception in a list is the error of its row."""


def predictions_of(result: Any, rows: int, model: str) -> Predictions:
    """Return a model's result as predictions for this number of rows. Raises ModelError."""
    if isinstance(result, Columns):
        return result
    _refuse_reordered(result, model)
    named = _named_columns(result)
    if named is not None:
        return columns_of(named, rows, model)
    values = _values(result)
    if values is None:
        if inspect.iscoroutine(result):
            result.close()  # or Python would warn that it was never awaited
        awaited = " (declare it with async def)" if isinstance(result, Awaitable) else ""
        raise ModelError(
            f"{model} returned a {type(result).__name__}{awaited} for {_number_of(rows, 'row')}",
            "It must return a list with one result for each row, in the order of the rows.",
        )
    return counted(values, rows, model)


def columns_of(named: Mapping[Any, Any], rows: int, model: str) -> Columns:
    """Return the columns. Raises ModelError unless each has a value for each row."""
    columns = {}
    for key, found in named.items():
        name, values = str(key), _values(found)
        _refuse_reordered(found, f"{model}, in its column {name!r},")
        if values is None:
            raise ModelError(
                f"{model} returned a {type(found).__name__} in its column {name!r}",
                "A dict must have a list or an array for each column, with one value for each row.",
            )
        if name in columns:
            raise ModelError(f"{model} returned two columns with the name {name!r}", "Rename one.")
        columns[name] = counted(values, rows, f"{model}, in its column {name!r},")
    if not columns:
        raise ModelError(f"{model} returned no columns", _HINT)
    return Columns(columns, rows)


def counted(values: Any, rows: int, model: str) -> Any:
    """Return the values. Raises ModelError unless there is one for each row."""
    shape = getattr(values, "shape", None)
    count = len(values) if shape != () else None  # a numpy scalar in an array has no length
    if count == rows:
        return values
    returned = "one value" if count is None else _number_of(count, "result")
    raise ModelError(f"{model} returned {returned} for {_number_of(rows, 'row')}", _HINT)


def by_class(result: Any, classes: Any) -> Any:
    """Return probabilities as columns named by class; `result`: an array, or one per output."""
    if isinstance(result, tuple):
        named: dict[str, Any] = {}
        for number, one in enumerate(result):
            known = None if classes is None else classes[number]
            columns = by_class(one, known)
            if not isinstance(columns, dict):
                return result
            prefix = f"{_PROBABILITY}{number}_"
            named |= {prefix + key[len(_PROBABILITY) :]: each for key, each in columns.items()}
        return named
    if classes is None or np.shape(result) != (len(result), len(classes)):
        return result
    names = [f"{_PROBABILITY}{one}" for one in classes]
    if np.ndim(classes[0]) or len(set(names)) < len(names):
        return result  # a chain has classes for each label; 1 and "1" give the same name
    array = np.asarray(result)
    return {name: array[:, place] for place, name in enumerate(names)}


def named_by_class(result: Any) -> Any:
    """Return a dict of probabilities with the same names."""
    if not isinstance(result, dict):
        return result
    return {f"{_PROBABILITY}{key}": value for key, value in result.items()}


def _named_columns(result: Any) -> Mapping[Any, Any] | None:
    """Return the columns of a result that has several; None for one value per row."""
    if isinstance(result, Mapping):
        return result
    if _is_frame(result):
        names = [str(name) for name in result.columns]
        _refuse_twice(names)
        return {name: result.iloc[:, place] for place, name in enumerate(names)}
    if isinstance(result, pa.Table | pa.RecordBatch):
        _refuse_twice(result.schema.names)
        return {name: result.column(name) for name in result.schema.names}
    if isinstance(result, np.ndarray) and result.dtype.names:
        return {name: result[name] for name in result.dtype.names}
    if isinstance(result, tuple) and result and all(_is_array(one) for one in result):
        names = getattr(result, "_fields", [f"{PREDICTION}_{n}" for n in range(len(result))])
        return dict(zip(names, result, strict=True))
    if hasattr(result, "columns") and hasattr(
        result, "__arrow_c_stream__"
    ):  # such as a frame of polars
        return _named_columns(pa.table(result))
    return None


def _refuse_twice(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ModelError(f"the model returned the column {twice[0]!r} twice", "Rename one.")


def _is_frame(result: Any) -> bool:
    return _of_pandas(result) and hasattr(result, "iloc") and hasattr(result, "columns")


def _of_pandas(result: Any) -> bool:
    return type(result).__module__.partition(".")[0] == "pandas"


def _refuse_reordered(result: Any, model: str) -> None:
    """Raise ModelError for a pandas result whose index shows that the rows were reordered."""
    index = getattr(result, "index", None) if _of_pandas(result) else None
    if getattr(getattr(index, "dtype", None), "kind", "") != "i":
        return
    places, rows = np.asarray(index), np.arange(len(result))
    if not np.array_equal(places, rows) and np.array_equal(np.sort(places), rows):
        raise ModelError(f"{model} returned rows in another order, by their index", _HINT)


def _is_array(one: Any) -> bool:
    return isinstance(one, pa.Array | pa.ChunkedArray) or (
        hasattr(one, "__array__") and getattr(one, "shape", ()) != ()
    )


def _values(result: Any) -> list[Any] | np.ndarray[Any, Any] | pa.Array | None:
    """Return one value for each row as a list or array; None if the result is not a sequence."""
    if isinstance(result, pa.ChunkedArray):
        return result.combine_chunks() if result.num_chunks != 1 else result.chunk(0)
    if isinstance(result, pa.Array):
        return result
    if _of_pandas(result):
        return _of_series(result)
    if hasattr(result, "toarray"):  # a sparse matrix
        result = result.toarray()
    if hasattr(result, "detach"):  # a tensor of torch
        result = result.detach().cpu()
    if isinstance(result, np.ma.MaskedArray):
        values: list[Any] = result.tolist()  # masked values become None
        return values
    if hasattr(result, "__array__"):
        return _plain_array(np.asarray(result))
    if isinstance(result, Sequence) and not isinstance(result, (str, bytes, bytearray)):
        return list(result)
    return None


def _plain_array(array: np.ndarray[Any, Any]) -> list[Any] | np.ndarray[Any, Any]:
    matrix = 2
    if array.ndim == 0 or (array.ndim <= matrix and array.dtype != object):
        return array
    return list(array) if array.ndim == 1 else array.tolist()


def _of_series(series: Any) -> list[Any] | np.ndarray[Any, Any] | pa.Array | None:
    if not hasattr(series, "dtype"):
        return None
    if isinstance(series.dtype, np.dtype) and series.dtype != object:
        array: np.ndarray[Any, Any] = series.to_numpy()
        return array
    if series.dtype != object:
        found = pa.array(series, from_pandas=True)
        return _values(found) if isinstance(found, pa.ChunkedArray) else found
    gaps = series.isna()
    return [None if gap else value for value, gap in zip(series, gaps, strict=True)]


def _number_of(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(column: Any) -> list[Any]:
    if isinstance(column, pa.Array):
        values: list[Any] = column.to_pylist()
        return values
    return list(column)
