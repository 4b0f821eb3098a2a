"""Load a model by its reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import assert_never

from peers.predict.errors import ModelError
from peers.predict.models import digests
from peers.predict.models.base import Model
from peers.predict.models.estimator import EstimatorModel
from peers.predict.models.function import FunctionModel
from peers.predict.models.http import HttpModel
from peers.predict.models.modules import find_source, import_unchanged
from peers.predict.models.onnx import OnnxModel
from peers.predict.models.trust import Trust
from peers.predict.spec import ModelRef


def load(ref: ModelRef, trust: Trust) -> Model:
    """Load a model.

    Raises ModelError if it is code that is not trusted, has changed since the run was planned, or
    cannot be loaded.
    """
    match ref.kind:
        case "onnx":
            path = Path(ref.ref)
            _check(ref, lambda: digests.of_onnx(path))
            return OnnxModel(path, ref.method)
        case "sklearn":
            path = trust.check_file(Path(ref.ref))
            _check(ref, lambda: digests.of_file(path))
            return EstimatorModel(path, ref.method)
        case "callable":
            module, _, attribute = ref.ref.partition(":")
            trust.check_module(module)
            source = find_source(module)
            _check(ref, lambda: digests.of_callable(ref.ref, source))
            return FunctionModel(ref.ref, import_unchanged(module, source), attribute)
        case "http":
            return HttpModel(ref)
        case unknown:
            assert_never(unknown)


def _check(ref: ModelRef, digest: Callable[[], str]) -> None:
    try:
        found = digest()
    except OSError as error:
        raise ModelError(
            f"The model {ref.ref} cannot be read: {error.strerror}",
            "It must be on a path that all hosts of the peers share.",
        ) from error
    if found != ref.digest:
        raise ModelError(
            f"The model {ref.ref} has changed since the run was planned",
            "Restore the model, or run the command again: it plans a new run with this model.",
        )
