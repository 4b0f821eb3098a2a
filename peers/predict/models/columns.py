"""Which columns a model takes, and how they become what it computes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from peers.predict.errors import InputError, RowError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHOWN: Final = 12
_WHOLE: Final = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_NUMBERS: Final = (*_WHOLE, "halffloat", "float", "double", "null")
_TEXTS: Final = ("string", "large_string", "string_view")


def all_but(columns: Mapping[str, str], leave_out: Sequence[str]) -> list[str]:
    """Every column that is not left out, in the input's order. InputError if none is left."""
    chosen = [name for name in columns if name not in leave_out]
    if not chosen:
        raise InputError("The input has no columns for the model", "Add those of the features.")
    return chosen


def named(columns: Mapping[str, str], names: Sequence[str], model: str) -> list[str]:
    """These columns; InputError naming those that the input lacks."""
    missing = [name for name in names if name not in columns]
    if missing:
        raise InputError(
            f"The input lacks {_listed(missing)}, which {model} takes; it has "
            f"{_listed(list(columns)) or 'no columns'}",
            "Name the columns as they were when the model was trained.",
        )
    return list(names)


def number_of(
    columns: Mapping[str, str], leave_out: Sequence[str], wanted: int, model: str
) -> list[str]:
    """Every column that is not left out, if they are as many as wanted; else InputError."""
    chosen = all_but(columns, leave_out)
    if len(chosen) != wanted:
        raise InputError(
            f"{model} takes {wanted} columns, and the input has {len(chosen)}: {_listed(chosen)}",
            "Leave out what is no feature; --id-column names one that is kept beside.",
        )
    return chosen


def check_types(
    columns: Mapping[str, str], chosen: Sequence[str], dtype: np.dtype[Any] | None, model: str
) -> None:
    """InputError for columns that do not fit into `dtype`; None stands for numbers of any type."""
    if dtype is None or dtype.kind == "f":
        wanted, fitting = "numbers", _is_number
    elif dtype.kind == "O":
        wanted, fitting = "texts", lambda kind: kind in _TEXTS
    else:
        # texts have doubles only; whether these are whole is seen row by row
        wanted, fitting = f"{dtype.name} values", lambda kind: kind in (*_WHOLE, "double")
    wrong = [f"{name} ({columns[name]})" for name in chosen if not fitting(columns[name])]
    if wrong:
        raise InputError(
            f"{model} takes {wanted}, and these columns hold something else: {_listed(wrong)}",
            "Convert them; a model that does so itself can be given as package.module:callable.",
        )


def _is_number(kind: str) -> bool:
    return kind in _NUMBERS or kind.startswith("decimal")


def matrix(table: pa.Table, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """The table as an array of shape (rows, columns), row by row in memory; nulls become NaN.

    Without `dtype` its type is the smallest that holds those of all columns. Raises RowError where
    a value doesn't fit.
    """
    if dtype is not None and dtype.kind != "f":
        return np.column_stack([exact(column, dtype) for column in table.columns])
    table = _plain(table)
    batches = table.to_batches()
    if len(batches) != 1:
        batches = table.combine_chunks().to_batches()
    if not batches:
        return np.empty((0, table.num_columns), dtype or np.float64)
    # one pass in C: 19 µs for 256 rows of 64 doubles, where columns set in a loop take 66 to 80
    array: NDArray[Any] = batches[0].to_tensor(null_to_nan=True, row_major=True).to_numpy()
    return array if dtype is None or array.dtype == dtype else _narrowed(array, dtype)


def exact(column: pa.ChunkedArray, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A column as an array of whole numbers, booleans or texts. RowError for what doesn't fit."""
    if column.null_count:
        raise RowError(f"A value is missing, and the model takes {dtype.name}, which has no NaN")
    if dtype.kind == "O":
        return np.array(column.to_pylist(), dtype=object)
    try:
        array: NDArray[Any] = column.cast(pa.from_numpy_dtype(dtype)).to_numpy()
        return array.astype(dtype, copy=False)
    except pa.ArrowInvalid as error:
        raise RowError(f"A value does not fit into {dtype.name}: {error}") from error


def _narrowed(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        with np.errstate(over="raise"):
            return array.astype(dtype)
    except FloatingPointError as error:
        raise RowError(f"A value is too large for the model's {dtype.name}") from error


def _plain(table: pa.Table) -> pa.Table:
    """The table with numbers only that a tensor can hold."""
    for place, field in enumerate(table.schema):
        if pa.types.is_boolean(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.uint8()))
        elif pa.types.is_null(field.type) or pa.types.is_decimal(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.float64()))
    return table


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
