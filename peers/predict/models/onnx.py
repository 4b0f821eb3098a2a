"""Run ONNX models with onnxruntime. They are data, not code, so they need no trust."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from peers.predict import predictions
from peers.predict.errors import ModelError
from peers.predict.models.base import Predictions, needed, threads
from peers.predict.models.columns import matrix
from peers.predict.signature import Feature, Kind, Signature

if TYPE_CHECKING:
    import pyarrow as pa

_PROVIDERS: Final = ("CUDAExecutionProvider", "CPUExecutionProvider")
_PROBABILITIES: Final = ("probabilities", "output_probability")
_ERRORS_ONLY: Final = 3
_MATRIX: Final = 2
_NUMBERS: Final[dict[str, np.dtype[Any]]] = {
    f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}")
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
_TYPES: Final[dict[str, np.dtype[Any]]] = {
    **_NUMBERS,
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(string)": np.dtype(object),
    "tensor(bool)": np.dtype(np.bool_),
}


class OnnxModel:
    """A model with one input of shape (rows, features), or several of one column each.

    `method` names an output, or is predict (the first output) or predict_proba. Raises ModelError
    if the model cannot be loaded, or has other inputs or outputs.
    """

    asynchronous = False

    def __init__(self, path: Path, method: str | None) -> None:
        self._name = path.name
        self._session = _session(path)
        self._inputs = self._session.get_inputs()
        for one in self._inputs:
            self._check(one)
        first = self._inputs[0]
        self._stacked = len(self._inputs) == 1 and len(first.shape) == _MATRIX
        if not self._stacked:
            for one in self._inputs:
                self._check_single(one)
        self.signature = self._signature()
        self._output = self._choose([output.name for output in self._session.get_outputs()], method)

    def predict(self, table: pa.Table) -> Predictions:
        """Return the output's rows; maps, such as probabilities by class, become dicts."""
        (result,) = self._session.run([self._output], self._feed(table))
        if not isinstance(result, (list, np.ndarray)):
            raise ModelError(
                f"The output {self._output} of {self._name} is neither a list nor a tensor"
            )
        if isinstance(result, list):  # a list of maps, whose keys may be numbers of classes
            result = [predictions.named_by_class(one) for one in result]
        return predictions.counted(result, table.num_rows, f"{self._name} ({self._output})")

    async def predict_async(self, table: pa.Table) -> Predictions:
        """Return the same: a session computes and never waits."""
        return self.predict(table)

    def _feed(self, table: pa.Table) -> dict[str, Any]:
        if self._stacked:
            (only,) = self._inputs
            return {only.name: matrix(table, _TYPES[only.type])}
        feed = {}
        for one in self._inputs:
            column = matrix(table.select([one.name]), _TYPES[one.type])
            feed[one.name] = column if len(one.shape) == _MATRIX else column[:, 0]
        return feed

    def _signature(self) -> Signature:
        first = self._inputs[0]
        if not self._stacked:
            return Signature(tuple(_feature(one, one.name) for one in self._inputs))
        wanted = first.shape[1]
        one = _feature(first, None)
        return Signature((one,) * wanted if isinstance(wanted, int) else None, one)

    def _check(self, one: Any) -> None:
        if one.type not in _TYPES:
            raise self._unfit(one, f"takes {one.type}")
        if one.shape and isinstance(one.shape[0], int):
            raise self._unfit(one, f"takes exactly {one.shape[0]} rows at once")

    def _check_single(self, one: Any) -> None:
        if len(one.shape) not in {1, _MATRIX} or one.shape[1:] not in ([], [1]):
            raise self._unfit(one, f"has the shape {one.shape}")

    def _unfit(self, one: Any, why: str) -> ModelError:
        return ModelError(
            f"The input {one.name} of {self._name} {why}",
            "Export the model with one input of shape (any number of rows, features) or with "
            "several of one column each; or wrap it as package.module:callable.",
        )

    def _choose(self, outputs: list[str], method: str | None) -> str:
        if method in outputs:
            return str(method)
        if method in {None, "predict"}:
            return outputs[0]
        if method == "predict_proba":
            likely = [name for name in _PROBABILITIES if name in outputs] + outputs[1:2]
            if likely:
                return likely[0]
        raise ModelError(
            f"{self._name} has no output {method}", f"It has {', '.join(outputs)}: see --method."
        )


def _feature(one: Any, name: str | None) -> Feature:
    """Return an input as a feature; integers, booleans and texts have no NaN, others may."""
    dtype = _TYPES[one.type]
    kind: Kind = {"f": "number", "O": "text", "b": "boolean"}.get(dtype.kind, "integer")  # type: ignore[assignment]
    return Feature(name, kind, None if dtype.kind == "f" else False)


def _session(path: Path) -> Any:
    with needed("onnxruntime", f"The model {path.name}"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # idle threads that spin would take the cores of other workers
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    there = onnxruntime.get_available_providers()
    providers = [provider for provider in _PROVIDERS if provider in there]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(
            f"The model {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
