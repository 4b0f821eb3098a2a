"""Speak version 2 of the Open Inference Protocol: KServe, Triton, MLServer and others.

A POST of tensors to /v2/models/NAME[/versions/V]/infer returns tensors. A GET without
/infer says which inputs the model takes, and of which types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import ModelError, RowError
from peers.predict.models.json_values import encoded
from peers.predict.models.protocols import Get, Request
from peers.predict.models.tensors import (
    BYTES,
    Tensor,
    column_input,
    datatype_of,
    matrix_input,
    output_rows,
)
from peers.predict.signature import Feature, Kind, Signature

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models.base import Predictions
    from peers.predict.models.transport import Response

_INFER: Final = "/infer"
_DEFAULT_INPUT: Final = "input-0"
_MATRIX: Final = 2
_NO_METADATA: Final = (404, 405)


class V2Protocol:
    """Sends a tensor for each column, or one for all. `output` chooses a tensor of the response."""

    def __init__(self, url: str, output: str | None = None) -> None:
        self._model_url = url.rstrip("/").removesuffix(_INFER)
        self._output = output
        self._inputs: list[Tensor] | None = None

    async def ask_for_inputs(self, get: Get) -> None:
        """Ask for the model's metadata. Without metadata the types of the columns are sent."""
        if self._inputs is not None:
            return
        try:
            response = await get(self._model_url)
        except RowError as error:  # no row is to blame: none was sent
            raise ModelError(str(error)) from error
        except ModelError as error:
            if not any(f" returned {status}" in str(error) for status in _NO_METADATA):
                raise
            self._inputs = []
            return
        declared = response.json.get("inputs") if isinstance(response.json, dict) else None
        self._inputs = [Tensor.read(each, self._model_url) for each in declared or []]

    def forget_inputs(self) -> None:
        """Ask for the metadata again before the next request."""
        self._inputs = None

    def signature(self) -> Signature:
        """Return the inputs in the metadata, or the numbers of a single matrix."""
        only = self._matrix_input()
        if only is not None:
            one, width = _feature(only, None), only.shape[1]
            return Signature((one,) * width if width > 0 else None, one)
        inputs = self._inputs or []
        return Signature(tuple(_feature(one, one.name) for one in inputs) or None)

    def request(self, table: pa.Table) -> Request:
        """Return all rows as tensors."""
        inputs: list[dict[str, Any]]
        only, declared = self._matrix_input(), {one.name: one for one in self._inputs or []}
        kinds = {datatype_of(field.type) for field in table.schema}
        if only is not None:
            inputs = [matrix_input(only.name, table, only.datatype)]
        elif not declared and not kinds & {BYTES, "BOOL"}:
            inputs = [matrix_input(_DEFAULT_INPUT, table, "FP64")]
        else:
            inputs = []
            for name, column in zip(table.column_names, table.columns, strict=True):
                one = declared.get(name)
                datatype = datatype_of(column.type) if one is None else one.datatype
                wide = one is None or len(one.shape) == _MATRIX
                inputs.append(column_input(name, column, datatype, wide=wide))
        wanted = {} if self._output is None else {"outputs": [{"name": self._output}]}
        return Request(self._model_url + _INFER, encoded({"inputs": inputs, **wanted}))

    def predictions(self, response: Response, table: pa.Table) -> Predictions:
        """Return the output's rows; of several outputs a dict for each row."""
        outputs = response.json.get("outputs") if isinstance(response.json, dict) else None
        if not isinstance(outputs, list) or not outputs:
            raise ModelError(f"{self._model_url} returned no outputs: {response.text}")
        found = {
            str(one.get("name")) if isinstance(one, dict) else "": output_rows(
                one, table.num_rows, self._model_url
            )
            for one in outputs
        }
        if self._output is not None and self._output not in found:
            raise ModelError(
                f"{self._model_url} has no output {self._output}",
                f"It has {', '.join(found)}: see --method.",
            )
        if self._output is not None:
            return found[self._output]
        if len(found) == 1:
            return next(iter(found.values()))
        lists = {
            name: rows if isinstance(rows, list) else rows.tolist() for name, rows in found.items()
        }
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]

    def _matrix_input(self) -> Tensor | None:
        """Return the only input if it takes all columns as a matrix."""
        if self._inputs is None or len(self._inputs) != 1:
            return None
        [only] = self._inputs
        is_matrix = len(only.shape) == _MATRIX and only.shape[1] != 1
        return only if is_matrix else None


def _feature(one: Tensor, name: str | None) -> Feature:
    """Return an input as a feature; texts, integers and booleans cannot be missing, others may."""
    kind: Kind = "integer"
    if one.datatype == BYTES:
        kind = "anything"  # texts or bytes
    elif one.datatype == "BOOL":
        kind = "boolean"
    elif "FP" in one.datatype or one.datatype == "BF16":
        kind = "number"
    return Feature(name, kind, None if kind == "number" else False)
