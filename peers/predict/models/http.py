"""Call models behind an HTTP endpoint, in any of the known protocols."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, assert_never

from peers.predict.errors import EndpointError, ModelError
from peers.predict.models.base import Predictions, needed
from peers.predict.models.protocol_mlflow import MlflowProtocol
from peers.predict.models.protocol_openai import OpenAIProtocol
from peers.predict.models.protocol_v1 import V1Protocol
from peers.predict.models.protocol_v2 import V2Protocol
from peers.predict.models.transport import BAD_INPUT, BAD_REQUEST, Busy, Transport, Unavailable
from peers.predict.signature import Signature

if TYPE_CHECKING:
    import pyarrow as pa

    from peers.predict.models.protocols import WireProtocol
    from peers.predict.spec import ModelRef

_TIMEOUT = 5.0
"""Seconds for the request for the model's inputs, before the columns are chosen."""


class HttpModel:
    """An endpoint. Raises ModelError without httpx, or if one of its secrets cannot be read."""

    asynchronous = True

    def __init__(self, ref: ModelRef) -> None:
        with needed("httpx", f"The model at {ref.ref}"):
            import httpx as _  # noqa: F401
        rows_fault = BAD_REQUEST if ref.protocol == "openai" else BAD_INPUT
        self._transport = Transport(ref.ref, ref.access, rows_fault)
        self._protocol = _protocol(ref)

    @property
    def signature(self) -> Signature:
        """What the model says about its inputs; any columns if it says nothing."""
        asyncio.run(self._ask_for_inputs())
        return self._protocol.signature()

    def predict(self, table: pa.Table) -> Predictions:
        """Return the same, outside of event loops."""
        return asyncio.run(self.predict_async(table))

    async def predict_async(self, table: pa.Table) -> Predictions:
        """Return the endpoint's predictions for the rows; with OpenAI's protocol, for a single row.

        Raises the errors of Transport.post, and RowError for values that cannot be sent.
        """
        await self._protocol.ask_for_inputs(self._transport.get)
        request = self._protocol.request(table)
        try:
            response = await self._transport.post(request.url, request.body)
            return self._protocol.predictions(response, table)
        except ModelError:
            self._protocol.forget_inputs()  # another version may have been deployed
            raise

    async def _ask_for_inputs(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                await self._protocol.ask_for_inputs(self._transport.get)
        except (Busy, Unavailable, EndpointError, TimeoutError):
            pass  # the peers back off together, and ask later


def _protocol(ref: ModelRef) -> WireProtocol:
    match ref.protocol:
        case "v1" | None:
            return V1Protocol(ref.ref)
        case "mlflow":
            return MlflowProtocol(ref.ref)
        case "v2":
            return V2Protocol(ref.ref, ref.method)
        case "openai":
            return OpenAIProtocol(ref.ref)
        case unknown:
            assert_never(unknown)
