"""The protocol of all models, and helpers that they share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from peers.predict.errors import ModelError
from peers.predict.predictions import Predictions as Predictions

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.signature import Signature


class Model(Protocol):
    """A loaded model. A batch is a table of the features, in the order of its signature."""

    asynchronous: bool
    """Whether to call `predict_async`; `predict` then works only outside of event loops."""

    @property
    def signature(self) -> Signature:
        """What the model says about its columns."""

    def predict(self, table: pa.Table) -> Predictions:
        """Return one prediction for each row.

        Raises RowError or any exception of the model for an invalid row, and ModelError if the
        number of results differs from the number of rows.
        """

    async def predict_async(self, table: pa.Table) -> Predictions:
        """Return the same, for asynchronous models."""


def threads() -> int:
    """Return how many threads a model may use: OMP_NUM_THREADS, or 1, since workers share cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": nested levels
    return int(first) if first.isdecimal() and int(first) > 0 else 1


@contextmanager
def needed(package: str, what: str) -> Iterator[None]:
    """Turn a failed import of an optional package in the block into a ModelError."""
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"{what} needs {package}, which cannot be imported here ({error})",
            "Install it on every host of the peers: pip install 'peers[predict]'",
        ) from error
