"""Calls of a model that is waited for: bounded, repeated, and left alone by all peers together."""

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
from peers.predict.tasks.answers import Answers, key_of

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
    """Return what lets one request at a time through, for rows of this model that stand alone."""
    return asyncio.Semaphore(1)


@cache
def _absences_of(_ref: str) -> models.Absences:
    return models.Absences()


async def predict_remotely(
    model: Model, manifest: Manifest, table: pa.Table, task: CurrentTask,
    gate: AbstractAsyncContextManager[Any] = _OPEN, answers: Answers | None = None,
) -> Predictions:  # fmt: skip
    """Predict these rows on behalf of `task`; each request is made within `gate`.

    `answers`: those of earlier attempts are not asked for again. Raises Reject for a model that
    breaks its contract, EndpointError for one that fails or takes too long, Snooze for one that
    cannot be asked now, and whatever a callable raises.
    """
    if manifest.model.kind != "http":
        with limited(task, manifest.timeout):  # it may keep the loop to itself
            return await _repeated(partial(_once, model, manifest, table, gate))
    endpoint = _Endpoint(model, manifest, task, gate, answers)
    if manifest.model.protocol == "openai":
        return await endpoint.predict_one_by_one(table)
    return await endpoint.predict(table)


async def _repeated(once: Callable[[], Awaitable[Predictions]]) -> Predictions:
    """Make the call; repeat it if it fails, as it may now and then for no fault of a row."""
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
class _Endpoint:
    """A model behind HTTP, which all peers leave alone together."""

    model: Model
    manifest: Manifest
    task: CurrentTask
    gate: AbstractAsyncContextManager[Any]
    answers: Answers | None

    async def predict(self, table: pa.Table) -> Predictions:
        """Predict these rows, in one request."""
        key = "" if self.answers is None else key_of(table)
        if self.answers is not None and (earlier := self.answers.recall(key)) is not None:
            return earlier
        call = partial(_repeated, partial(_once, self.model, self.manifest, table, self.gate))
        absences = _absences_of(self.manifest.model.ref)
        found = await models.predict_patiently(
            call, self.cooldown_left, self.start_cooldown, absences
        )
        if self.answers is not None:
            self.answers.note(key, found)
        return found

    async def predict_one_by_one(self, table: pa.Table) -> Predictions:
        """Predict these rows, in a request for each; an error stands for a row without.

        Raises EndpointError if it fails for the first row: it may fail for all.
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
        """Return for how many seconds to leave it alone; without a database nobody knows."""
        try:
            return await self.task.cooldown_left_async(self._name)
        except DatabaseUnreachable:
            return 0.0

    async def start_cooldown(self, seconds: float, reason: str) -> None:
        """Have it left alone by all; without a database, at least by this task."""
        try:
            await self.task.start_cooldown_async(self._name, seconds, reason)
        except DatabaseUnreachable as error:
            raise Snooze(in_=seconds, message=reason) from error

    @property
    def _name(self) -> str:
        """What it goes by among the cooldowns."""
        return cooldown_name(self.manifest.model.ref)
