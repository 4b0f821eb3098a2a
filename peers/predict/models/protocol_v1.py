"""Speak version 1 of the protocol of TensorFlow Serving and KServe.

A POST of {"instances": [{column: value, …}, …]} returns {"predictions": [...]}, one for each
instance, in order. {"error": "why"} may take the place of a prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.predict.models.json_values import encoded, rows_of
from peers.predict.models.protocols import Request, SimpleProtocol, listed_predictions

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models.base import Predictions
    from peers.predict.models.transport import Response


class V1Protocol(SimpleProtocol):
    """Sends instances, and receives predictions."""

    def request(self, table: pa.Table) -> Request:
        """Return all rows as objects."""
        return Request(self.url, encoded({"instances": rows_of(table)}))

    def predictions(self, response: Response, table: pa.Table) -> Predictions:
        """Return the list of predictions."""
        return listed_predictions(response, table.num_rows, self.url, sent="instances")
