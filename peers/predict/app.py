"""The handlers of predictions: `peers run --app peers.predict.app --queues predict=2`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa

from peers import Reject, current_batch, current_task, task
from peers.predict import brake, kinds, models, suspects
from peers.predict.assemble import assemble_run
from peers.predict.chunk import run_chunk
from peers.predict.errors import ModelError, RunStopped, StorageFailed
from peers.predict.overrun import ended_after
from peers.predict.remote import one_at_a_time, predict_remotely
from peers.predict.rows import RowArgs, run_rows
from peers.predict.spec import MOST_BATCHES, Chunk, Manifest, ModelRef, load_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.predict.models import Model, Predictions

T = TypeVar("T")

# Each batch of a chunk may hold a row that takes the worker and an attempt along; peers die, too.
_CHUNK_ATTEMPTS: Final = MOST_BATCHES + 36
_BACKOFF: Final = timedelta(milliseconds=100)
_BACKOFF_CAP: Final = timedelta(seconds=2)
_ROWS_AT_ONCE: Final = 1000


def _batch_wait() -> timedelta:
    """The peer's setting, which a worker is told in seconds; elsewhere nothing depends on it."""
    try:
        return timedelta(seconds=float(os.environ.get("PEERS_PREDICT_BATCH_WAIT", "0")))
    except ValueError:
        return timedelta(0)


@task(
    kinds.ROW, queue=kinds.QUEUE, batch_size=_ROWS_AT_ONCE, batch_wait=_batch_wait(),
    backoff=_BACKOFF, backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def row(tasks: list[RowArgs]) -> list[Any]:
    """Rows that spoilt their batch, or are suspected to."""
    return _at_once(run_rows(tasks, _predict_for))


@task(
    kinds.REMOTE_ROW, queue=kinds.QUEUE, batch_size=_ROWS_AT_ONCE, batch_wait=_batch_wait(),
    backoff=_BACKOFF, backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
async def remote_row(tasks: list[RowArgs]) -> list[Any]:
    """The same for a model that is waited for."""
    return await run_rows(tasks, _predict_remotely_for)


@task(
    kinds.CHUNK, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def chunk(manifest: str, input: str, chunk: int, first: int, rows: int) -> dict[str, object]:
    """A range of rows of the input."""
    del input  # for people who look at the task
    run, part = _manifest(manifest), Chunk(chunk, first, rows)
    model = _model(run)

    async def predict(table: pa.Table) -> Predictions:
        return _strictly(model, table, run.timeout)

    async def hand_over(values: str, doubts: Sequence[suspects.Doubt]) -> suspects.Alone:
        brake.require_going(run)
        return suspects.submit(row, run, part.number, values, doubts)

    return _at_once(_unless_stopped(run, part, run_chunk(run, part, predict, hand_over)))


@task(
    kinds.REMOTE, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=timedelta(minutes=1),
)  # fmt: skip
async def remote(manifest: str, input: str, chunk: int, first: int, rows: int) -> dict[str, object]:
    """A range of rows, for a model that is waited for."""
    del input
    run, part = _manifest(manifest), Chunk(chunk, first, rows)

    async def predict(table: pa.Table) -> Predictions:
        return await predict_remotely(_model(run), run, table, current_task())

    async def hand_over(values: str, doubts: Sequence[suspects.Doubt]) -> suspects.Alone:
        brake.require_going(run)
        return await asyncio.to_thread(
            suspects.submit, remote_row, run, part.number, values, doubts
        )

    return await _unless_stopped(run, part, run_chunk(run, part, predict, hand_over))


@task(
    kinds.ASSEMBLE, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def assemble(
    manifest: str, turn: int, stage: int = 1, overwrite: bool = False
) -> dict[str, object]:
    """The output, out of the parts."""
    run = _manifest(manifest)
    brake.require_going(run)
    alone = remote_row if run.asynchronous else row
    return assemble_run(assemble, alone, run, turn, stage, overwrite=overwrite)


def _manifest(path: str) -> Manifest:
    """Load a manifest. Raises StorageFailed if it is not there: the command writes it again."""
    try:
        return load_manifest(path)
    except OSError as error:
        raise StorageFailed(
            f"the run's manifest {path} cannot be read: {error.strerror}",
            "The folder must be on a path that all hosts of the peers share. If it was deleted, "
            "run the same command again.",
        ) from error


async def _unless_stopped(
    run: Manifest, part: Chunk, work: Coroutine[Any, Any, dict[str, object]]
) -> dict[str, object]:
    """Do the work of a chunk, and count its rows; leave it out if the run is stopped."""
    try:
        brake.require_going(run)
        return brake.count_chunk(run, part.number, await work)
    except RunStopped:
        return brake.skipped()
    finally:
        work.close()


# ------------------------------------------------------------------------------------- the models


def _model(manifest: Manifest) -> Model:
    """Warm after the first time."""
    return _load(manifest.model, models.Trust.from_environment())


@lru_cache(maxsize=4)
def _load(reference: ModelRef, trust: models.Trust) -> Model:
    """One that is warm is what its digest says, whatever became of its file."""
    return models.load(reference, trust)


async def _predict_for(manifest: Manifest, table: pa.Table) -> Predictions:
    return _strictly(_model(manifest), table, manifest.timeout)


async def _predict_remotely_for(manifest: Manifest, table: pa.Table) -> Predictions:
    return await predict_remotely(
        _model(manifest), manifest, table, current_batch()[0], one_at_a_time(manifest.model.ref)
    )


def _strictly(model: Model, table: pa.Table, timeout: float | None) -> Predictions:
    """A model that breaks its contract (such as by the number of results) is not tried again."""
    try:
        with ended_after(timeout):
            return model.predict(table)
    except ModelError as error:
        raise Reject(str(error)) from error


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("a model that computes must not wait")
