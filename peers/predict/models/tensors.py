"""Convert columns to tensors of the Open Inference Protocol as JSON, and tensors to predictions."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from peers.predict.errors import ModelError, RowError
from peers.predict.models.json_values import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES: Final = "BYTES"
_NUMPY: Final[Mapping[str, Any]] = {
    "BOOL": np.bool_,
    **{f"{sign}INT{bits}": np.dtype(f"{sign}int{bits}".lower())
       for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "FP16": np.float16, "BF16": np.float32, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_ARROW: Final = (
    (pa.types.is_boolean, "BOOL"),
    (pa.types.is_floating, "FP64"),
    (pa.types.is_decimal, "FP64"),
    (pa.types.is_unsigned_integer, "UINT64"),
    (pa.types.is_integer, "INT64"),
)


class Tensor(NamedTuple):
    """An input in the model's metadata; -1 in the shape is any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def read(cls, fields: Any, url: str) -> Tensor:
        """Return the tensor that an object in the metadata declares. Raises ModelError."""
        try:
            shape = tuple(int(size) for size in fields["shape"])
            found = cls(str(fields["name"]), str(fields["datatype"]).upper(), shape)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the metadata of {url} cannot be understood: {fields!r}") from error
        if found.datatype != BYTES and found.datatype not in _NUMPY:
            raise ModelError(f"the input {found.name} of {url} is of type {found.datatype}")
        return found


def datatype_of(type_: pa.DataType) -> str:
    """Return the datatype for a column of a model without metadata."""
    return next((name for fits, name in _ARROW if fits(type_)), BYTES)


def column_input(
    name: str, column: pa.ChunkedArray, datatype: str, *, wide: bool
) -> dict[str, Any]:
    """Return a column as a tensor of shape [rows], or [rows, 1] if `wide`. Raises RowError."""
    data = [element(value, datatype, name) for value in column.to_pylist()]
    made: dict[str, Any] = {
        "name": name, "shape": [len(data), 1] if wide else [len(data)], "datatype": datatype,
        "data": data,
    }  # fmt: skip
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        made["parameters"] = {"content_type": "base64"}
    return made


def matrix_input(name: str, table: pa.Table, datatype: str) -> dict[str, Any]:
    """Return all columns as one tensor of shape [rows, columns], row by row. Raises RowError."""
    columns = [
        [element(value, datatype, column_name) for value in column.to_pylist()]
        for column_name, column in zip(table.column_names, table.columns, strict=True)
    ]
    data = [value for row in zip(*columns, strict=True) for value in row]
    shape = [table.num_rows, table.num_columns]
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def element(value: Any, datatype: str, name: str) -> Any:
    """Return a value as an element of a tensor. Raises RowError for one that does not fit."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowError(
            f"the column {name!r} has no value, and a tensor cannot hold a missing value"
        )
    if datatype == BYTES:
        return value if isinstance(value, str) else str(_as_text(value))
    try:
        if datatype == "BOOL":
            found: Any = _truth(value)
        elif "INT" in datatype:
            found = _whole(value)
            np.array([found], _NUMPY[datatype])  # OverflowError
        else:
            found = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError(f"the column {name!r} holds {value!r}, which is not a {datatype}") from error
    return found


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return plain(value) if not isinstance(value, bool | int | float) else value


def _truth(value: Any) -> bool:
    if value not in {0, 1}:
        raise ValueError
    return bool(value)


def _whole(value: Any) -> int:
    if isinstance(value, str) or int(value) != value:
        raise ValueError
    return int(value)


def output_rows(output: Any, rows: int, url: str) -> list[Any] | NDArray[Any]:
    """Return a tensor by rows: values for [rows] and [rows, 1], or lists. Raises ModelError."""
    try:
        name, datatype = str(output["name"]), str(output["datatype"]).upper()
        shape, data = [int(size) for size in output["shape"]], output["data"]
        dtype = object if datatype == BYTES else _NUMPY[datatype]
        flat = list(_flat(data))
        if len(flat) != math.prod(shape):
            raise ValueError(f"{len(flat)} values for the shape {shape}")
        values = np.empty(len(flat), dtype)
        values[:] = _checked(flat, values.dtype)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"{url} returned a tensor that cannot be understood ({type(error).__name__}: {error})",
            "It needs name, datatype, shape and values in data; binary data is unsupported.",
        ) from error
    if not shape or shape[0] != rows:
        raise ModelError(
            f"{url} returned the output {name} of shape {shape} for {rows} rows",
            "Its first dimension must be the number of rows.",
        )
    if math.prod(shape[1:]) == 1:
        return values.tolist() if dtype is object else values
    found = values.reshape(shape)
    return found if dtype is not object and found.ndim <= 2 else found.tolist()  # noqa: PLR2004


def _checked(values: list[Any], dtype: np.dtype[Any]) -> list[Any]:
    """Return the values. Raises ValueError if an array of this type would alter one."""
    if dtype.kind in "iub":
        wrong = [one for one in values if not isinstance(one, int) or one != dtype.type(one)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not a {dtype}")
    return values


def _flat(data: Any) -> Any:
    for one in data:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one
