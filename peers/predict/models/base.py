"""What all kinds of models have in common."""

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
    """Whether `predict_async` is to be used; `predict` then works outside of event loops only."""

    @property
    def signature(self) -> Signature:
        """What the model says of its columns."""

    def predict(self, table: pa.Table) -> Predictions:
        """Return one prediction for each row.

        Raises RowError or whatever the model does where a row is unfit, and ModelError where the
        number of results is not that of the rows.
        """

    async def predict_async(self, table: pa.Table) -> Predictions:
        """Return the same, for models that are asynchronous."""


def threads() -> int:
    """Return how many threads a model may use: OMP_NUM_THREADS, or 1: workers share the cores."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": nested levels
    return int(first) if first.isdecimal() and int(first) > 0 else 1


@contextmanager
def needed(package: str, what: str) -> Iterator[None]:
    """Around the import of an optional package: its absence is a ModelError."""
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"{what} needs {package}, which cannot be imported here ({error})",
            "Install it on every host of the peers: pip install 'peers[predict]'",
        ) from error
