"""Call a remote model: with a time limit, with retries, and with a backoff that all peers share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from peers import DatabaseUnreachable, Reject, Snooze
from peers.predict import models
from peers.predict.errors import EndpointError, ModelError, RowError
from peers.predict.kinds import cooldown_name
from peers.predict.models.time_limit import limited
from peers.predict.tasks.response_cache import ResponseCache, request_key

if TYPE_CHECKING:
    import pyarrow as pa

    from peers import CurrentTask
    from peers.predict.models import Model, Predictions
    from peers.predict.spec import Manifest

_PAUSES: Final = (0.2, 1.0)
"""Seconds before a failed request is repeated. After that the batch is bisected."""

_OPEN: Final = nullcontext()


@cache
def one_at_a_time(_ref: str) -> asyncio.Semaphore:
    """Return the semaphore that serializes the requests for isolated rows of this model."""
    return asyncio.Semaphore(1)


@cache
def _backoff_of(_ref: str) -> models.Backoff:
    return models.Backoff()


async def predict_remotely(
    model: Model, manifest: Manifest, table: pa.Table, task: CurrentTask,
    gate: AbstractAsyncContextManager[Any] = _OPEN, cache: ResponseCache | None = None,
) -> Predictions:  # fmt: skip
    """Predict these rows for `task`; each request is made within `gate`.

    A request whose response is in `cache` is not repeated. Raises Reject for a model that breaks
    its contract, EndpointError for one that fails or takes too long, Snooze for one that is busy or
    unavailable, and whatever a callable raises.
    """
    if manifest.model.kind != "http":
        with limited(task, manifest.timeout):  # a callable may block the event loop
            return await _repeated(partial(_once, model, manifest, table, gate))
    endpoint = _Endpoint(model, manifest, task, gate, cache)
    if manifest.model.protocol == "openai":
        return await endpoint.predict_one_by_one(table)
    return await endpoint.predict(table)


async def _repeated(once: Callable[[], Awaitable[Predictions]]) -> Predictions:
    """Make the call; repeat it if it fails, since a network fails now and then."""
    for pause in _PAUSES:
        try:
            return await once()
        except EndpointError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise  # a repeated call would take as long
            await asyncio.sleep(pause)
    return await once()


async def _once(
    model: Model, manifest: Manifest, table: pa.Table, gate: AbstractAsyncContextManager[Any]
) -> Predictions:
    limit = asyncio.timeout(None)
    try:
        async with gate, limit:
            if manifest.timeout is not None:
                limit.reschedule(asyncio.get_running_loop().time() + manifest.timeout)
            return await model.predict_async(table)
    except ModelError as error:
        raise Reject(str(error)) from error
    except TimeoutError as error:
        if not limit.expired():
            raise  # raised by the model itself
        raise EndpointError(
            f"{manifest.model.ref} took longer than {manifest.timeout:g} s"
        ) from error


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A model behind HTTP, with a cooldown that all peers share."""

    model: Model
    manifest: Manifest
    task: CurrentTask
    gate: AbstractAsyncContextManager[Any]
    cache: ResponseCache | None

    async def predict(self, table: pa.Table) -> Predictions:
        """Predict these rows, in one request."""
        key = "" if self.cache is None else request_key(table)
        if self.cache is not None and (earlier := self.cache.take(key)) is not None:
            return earlier
        call = partial(_repeated, partial(_once, self.model, self.manifest, table, self.gate))
        backoff = _backoff_of(self.manifest.model.ref)
        found = await models.predict_with_backoff(
            call, self.cooldown_left, self.start_cooldown, backoff
        )
        if self.cache is not None:
            self.cache.add(key, found)
        return found

    async def predict_one_by_one(self, table: pa.Table) -> Predictions:
        """Predict these rows with a request for each; a failed row is represented by its error.

        Raises EndpointError if the first request fails: the endpoint may fail for all.
        """
        predictions: list[Any] = []
        for row in range(table.num_rows):
            try:
                predictions += await self.predict(table.slice(row, 1))
            except RowError as error:
                predictions.append(error)
            except EndpointError as error:
                if not any(not isinstance(one, Exception) for one in predictions):
                    raise
                predictions.append(error)
        return predictions

    async def cooldown_left(self) -> float:
        """Return the rest of the cooldown in seconds; 0 if the database is unreachable."""
        try:
            return await self.task.cooldown_left_async(self._name)
        except DatabaseUnreachable:
            return 0.0

    async def start_cooldown(self, seconds: float, reason: str) -> None:
        """Start a cooldown for all peers; without a database, snooze at least this task."""
        try:
            await self.task.cooldown_async(seconds, reason, name=self._name)
        except DatabaseUnreachable as error:
            raise Snooze(in_=seconds, message=reason) from error

    @property
    def _name(self) -> str:
        """The name of the cooldown."""
        return cooldown_name(self.manifest.model.ref)
