"""Collect what the model returned for the rows of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from peers.predict import outputs
from peers.predict.tasks.isolate import BatchOutcome

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.predictions import Predictions
    from peers.predict.spec import Manifest


@dataclass(slots=True)
class ChunkPredictions:
    """The predictions of a chunk so far, by the index of the row in the chunk.

    Rows in `to_isolate` will be tried one by one. For rows in `problems` it is known why they have
    no prediction.
    """

    batches_found: list[tuple[Sequence[int], Predictions]] = field(default_factory=list)
    to_isolate: set[int] = field(default_factory=set)
    problems: dict[int, str] = field(default_factory=dict)
    batches: int = 0
    indices: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0, np.int64))
    """The rows that have a prediction, in order. Set by `fit`."""

    def add(self, batch: BatchOutcome) -> None:
        """Add the outcome of a batch."""
        self.batches_found += batch.predictions
        self.to_isolate |= batch.errors.keys()
        self.batches += batch.calls

    def fit(self, manifest: Manifest) -> pa.Table:
        """Return all predictions as columns of the output, in the order of `indices`.

        A prediction that does not fit the run's output type becomes a problem of its row. Raises
        OutputError.
        """
        requested = outputs.requested_columns(manifest)
        fitted = outputs.fit(manifest.folder, requested, [one for _, one in self.batches_found])
        arrays = [_array(some) for some, _ in self.batches_found]
        indices = np.concatenate([self.indices, *arrays])
        self.problems |= {int(indices[place]): why for place, why in fitted.problems.items()}
        self.indices = indices[fitted.places] if fitted.problems else indices
        self.batches_found = []
        return fitted.table


def _array(indices: Sequence[int]) -> np.ndarray[Any, Any]:
    if isinstance(indices, range):  # numpy would make an object of each
        return np.arange(indices.start, indices.stop, indices.step)
    return np.asarray(indices, np.int64)
