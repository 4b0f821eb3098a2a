"""What came out of the model for the rows of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from peers.predict import outputs
from peers.predict.tasks.isolate import Isolated

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.outputs.results import Predictions
    from peers.predict.spec import Manifest


@dataclass(slots=True)
class Done:
    """What came out of the model, by the rows' indices in the chunk.

    `doubtful` rows are to be tried alone; of those in `problems` it is known why they have no
    prediction.
    """

    found: list[tuple[Sequence[int], Predictions]] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)
    problems: dict[int, str] = field(default_factory=dict)
    batches: int = 0
    indices: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0, np.int64))
    """The rows that have a prediction, in order; once they are known."""

    def add(self, batch: Isolated) -> None:
        """Take in a batch."""
        self.found += batch.good
        self.doubtful |= batch.bad.keys()
        self.batches += batch.calls

    def fitted(self, manifest: Manifest) -> pa.Table:
        """Return all predictions as columns of the output, in the order of `indices`.

        What cannot stand beside the run's others is left out: that is a problem of its row. Raises
        OutputError.
        """
        asked = outputs.asked_of(manifest)
        fitted = outputs.fit(manifest.folder, asked, [one for _, one in self.found])
        runs = [_array(some) for some, _ in self.found]
        indices = np.concatenate([self.indices, *runs])
        self.problems |= {int(indices[place]): why for place, why in fitted.problems.items()}
        self.indices = indices[fitted.places] if fitted.problems else indices
        self.found = []
        return fitted.table


def _array(indices: Sequence[int]) -> np.ndarray[Any, Any]:
    if isinstance(indices, range):  # numpy would make an object of each
        return np.arange(indices.start, indices.stop, indices.step)
    return np.asarray(indices, np.int64)
