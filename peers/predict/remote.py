"""Calls of a model that is waited for: bounded, repeated, and left alone by all peers together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from peers import DatabaseUnreachable, Reject
from peers.predict import models
from peers.predict.errors import EndpointError, ModelError
from peers.predict.kinds import hold_off_name
from peers.predict.time_limit import limited

if TYPE_CHECKING:
    import pyarrow as pa

    from peers import CurrentTask
    from peers.predict.models import Model, Predictions
    from peers.predict.spec import Manifest

_PAUSES: Final = (0.2, 1.0)
"""Seconds before an endpoint that failed is asked again, before rows are looked at one by one."""


_OPEN: Final = nullcontext()


@cache
def one_at_a_time(_ref: str) -> asyncio.Semaphore:
    """For rows alone of this model, which come on top of what a run may have at once."""
    return asyncio.Semaphore(1)


async def predict_remotely(
    model: Model, manifest: Manifest, table: pa.Table, task: CurrentTask,
    gate: AbstractAsyncContextManager[Any] = _OPEN,
) -> Predictions:  # fmt: skip
    """Predictions of these rows, on behalf of `task`; each request is made within `gate`.

    Raises Reject for a model that breaks its contract, EndpointError for one that fails or takes
    too long, and whatever a callable raises.
    """
    call = partial(_repeated, partial(_once, model, manifest, table, gate))
    if manifest.model.kind != "http":
        with limited(task, manifest.timeout):  # it may keep the loop to itself
            return await call()
    name = _Name(hold_off_name(manifest.model.ref), task)
    return await models.predict_patiently(call, name.held_off, name.hold_off)


async def _repeated(once: Callable[[], Awaitable[Predictions]]) -> Predictions:
    """It may fail now and then, for no fault of a row."""
    for pause in _PAUSES:
        try:
            return await once()
        except EndpointError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise  # that took long enough
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
            raise  # the model's own
        raise EndpointError(
            f"{manifest.model.ref} took longer than {manifest.timeout:g} s"
        ) from error


@dataclass(frozen=True, slots=True)
class _Name:
    """What an endpoint goes by among the hold-offs."""

    name: str
    task: CurrentTask

    async def held_off(self) -> float:
        """For how many seconds it is to be left alone; without a database nobody knows."""
        try:
            return await self.task.held_off_async(self.name)
        except DatabaseUnreachable:
            return 0.0

    async def hold_off(self, seconds: float, reason: str) -> None:
        """Have it left alone by all; without a database, at least by this call."""
        try:
            await self.task.hold_off_async(self.name, seconds, reason)
        except DatabaseUnreachable:
            await asyncio.sleep(seconds)
