"""Send requests in the format of OpenAI's Batch API, which vLLM's run-batch takes as well.

A row is {"custom_id", "method", "url", "body"}: its body is sent to the base URL and its url. Its
prediction is the line of the batch's output file, as text: {"id", "custom_id", "response":
{"status_code", "request_id", "body"}, "error"}.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import RowError
from peers.predict.models.json_values import encoded
from peers.predict.models.plain_rows import plain_rows
from peers.predict.models.protocols import Request, SimpleProtocol
from peers.predict.signature import Feature, Signature

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models.base import Predictions
    from peers.predict.models.transport import Response

_NEEDED: Final = ("custom_id", "url", "body")
_VERSION: Final = "/v1"
_ID_BYTES: Final = 12


class OpenAIProtocol(SimpleProtocol):
    """Sends one request for each row."""

    def signature(self) -> Signature:
        """Return the columns of a batch file; `method` is optional."""
        return Signature(
            tuple(Feature(name) for name in _NEEDED),
            optional=(Feature("method", accepts_missing=True),),
        )

    def request(self, table: pa.Table) -> Request:
        """Return the request of the only row. Raises RowError unless it POSTs a JSON object."""
        row = _only(table)
        path, body = row["url"], row["body"]
        if str(row.get("method") or "POST").upper() != "POST":
            raise RowError(f"the method is {row['method']}, and only POST can be sent")
        if not isinstance(path, str) or not path.startswith("/"):
            raise RowError(f"the url {path!r} must begin with /: it follows the model's URL")
        if isinstance(body, str):  # the columns of the file are texts
            try:
                body = json.loads(body)
            except ValueError as error:
                raise RowError(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise RowError("the body must be a JSON object")
        base = self.url.rstrip("/")
        if base.endswith(_VERSION) and path.startswith(f"{_VERSION}/"):
            base = base.removesuffix(_VERSION)  # responses and batch files name it differently
        return Request(base + path, encoded(body))

    def predictions(self, response: Response, table: pa.Table) -> Predictions:
        """Return the line of the output file."""
        custom_id = _only(table)["custom_id"]
        digest = hashlib.blake2b(str(custom_id).encode(), digest_size=_ID_BYTES).hexdigest()
        line = {
            "id": f"batch_req_{digest}",
            "custom_id": custom_id,
            "response": {
                "status_code": response.status,
                "request_id": response.headers.get("x-request-id", ""),
                "body": response.json,
            },
            "error": None,
        }
        return [json.dumps(line, ensure_ascii=False)]


def _only(table: pa.Table) -> dict[str, Any]:
    [row] = plain_rows(table)
    return row
