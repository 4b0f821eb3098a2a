"""Speak the protocol of MLflow's scoring server, from MLflow 2.0 on.

A POST of {"dataframe_split": {"columns": [...], "data": [[...], …]}} to /invocations returns
{"predictions": [...]}: values, or objects where the model returns a data frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.predict.models.json_values import encoded, rows_of
from peers.predict.models.protocols import Request, SimpleProtocol, listed_predictions

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models.base import Predictions
    from peers.predict.models.transport import Response


class MlflowProtocol(SimpleProtocol):
    """Sends a data frame, and receives predictions."""

    def request(self, table: pa.Table) -> Request:
        """Return the names of the columns once, and a list of values for each row."""
        data = [list(row.values()) for row in rows_of(table)]
        split = {"columns": table.column_names, "data": data}
        return Request(self.url, encoded({"dataframe_split": split}))

    def predictions(self, response: Response, table: pa.Table) -> Predictions:
        """Return the list of predictions."""
        return listed_predictions(response, table.num_rows, self.url, sent="dataframe_split")
