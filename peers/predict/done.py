"""What came out of the model for the rows of a chunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from peers.predict import outputs
from peers.predict.isolate import Isolated

if TYPE_CHECKING:
    from peers.predict.models import Predictions


@dataclass(slots=True)
class Done:
    """What came out of the model, by the rows' indices in the chunk.

    `doubtful` rows are to be tried alone; of those in `problems` it is known why they have no
    prediction.
    """

    indices: list[int] = field(default_factory=list)
    predictions: list[Predictions] = field(default_factory=list)
    doubtful: set[int] = field(default_factory=set)
    problems: dict[int, str] = field(default_factory=dict)
    batches: int = 0

    def add(self, batch: Isolated) -> None:
        """Takes in a batch."""
        for indices, predictions in batch.good:
            self.indices += indices
            self.predictions.append(predictions)
        self.doubtful |= batch.bad.keys()
        self.batches += batch.calls

    def joined(self) -> Predictions:
        """All predictions, in the order of `indices`.

        What cannot stand beside the others is left out: that is a problem of its row.
        """
        arrays = [one for one in self.predictions if isinstance(one, np.ndarray)]
        kinds = {(one.dtype.kind, one.shape[1:]) for one in arrays}
        if len(arrays) == len(self.predictions) and len(kinds) == 1:
            return np.concatenate(arrays)
        joined = [value for batch in self.predictions for value in batch]
        misfits = outputs.misfits(joined)
        self.problems |= {self.indices[place]: why for place, why in misfits.items()}
        self.indices = [one for place, one in enumerate(self.indices) if place not in misfits]
        return [one for place, one in enumerate(joined) if place not in misfits]
