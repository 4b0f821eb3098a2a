"""The handlers of predictions: `peers run --app peers.predict.app --queues predict=2`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa

from peers import Retry, Snooze, current_batch, current_task, task
from peers.predict import kinds
from peers.predict.errors import RunStopped
from peers.predict.spec import Chunk, Manifest, load_manifest
from peers.predict.tasks import failure_limit, isolated_rows
from peers.predict.tasks.assemble import assemble_run
from peers.predict.tasks.batch_sizes import MAX_CRASHES
from peers.predict.tasks.chunk import run_chunk
from peers.predict.tasks.remote import one_at_a_time, predict_remotely
from peers.predict.tasks.response_cache import ResponseCache
from peers.predict.tasks.rows import RowArgs, run_rows
from peers.predict.tasks.worker_models import LocalModel, model_of, warm_up
from peers.predict.variables import batch_wait, in_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.predict.models import Predictions
    from peers.predict.tasks.isolated_rows import IsolatedRows, RowToIsolate

T = TypeVar("T")

# Each batch of a chunk may have a row that kills the worker and costs an attempt. Peers die, too.
_CHUNK_ATTEMPTS: Final = MAX_CRASHES + 36
_BACKOFF: Final = timedelta(milliseconds=100)
_BACKOFF_CAP: Final = timedelta(seconds=2)
_ROWS_PER_BATCH: Final = 1000


@task(
    kinds.ROW, queue=kinds.QUEUE, batch_size=_ROWS_PER_BATCH, batch_wait=batch_wait(),
    backoff=_BACKOFF, backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def row(tasks: list[RowArgs]) -> list[Any]:
    """Predict isolated rows."""
    return _run_to_end(run_rows(tasks, _predict_rows))


@task(
    kinds.REMOTE_ROW, queue=kinds.QUEUE, batch_size=_ROWS_PER_BATCH, batch_wait=batch_wait(),
    backoff=_BACKOFF, backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
async def remote_row(tasks: list[RowArgs]) -> list[Any]:
    """Predict isolated rows with a remote model."""
    return await run_rows(tasks, _predict_rows_remotely)


@task(
    kinds.CHUNK, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def chunk(
    manifest: str, graph: int, input: str, chunk: int, first: int, rows: int
) -> dict[str, object]:
    """Predict a range of rows of the input."""
    del input  # it is for readers of the task's args
    run, part = load_manifest(manifest), Chunk(chunk, first, rows)
    model = LocalModel(run, current_task())

    async def predict(table: pa.Table) -> Predictions:
        return model.predict(table)

    async def submit_isolated(values: str, rows: Sequence[RowToIsolate]) -> IsolatedRows:
        failure_limit.raise_if_stopped(run)
        return isolated_rows.submit(row, run, graph, part.number, values, rows)

    return _run_to_end(_unless_stopped(run, part, run_chunk(run, part, predict, submit_isolated)))


@task(
    kinds.REMOTE, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=timedelta(minutes=1),
)  # fmt: skip
async def remote(
    manifest: str, graph: int, input: str, chunk: int, first: int, rows: int
) -> dict[str, object]:
    """Predict a range of rows with a remote model."""
    del input
    run, part = load_manifest(manifest), Chunk(chunk, first, rows)
    cache = ResponseCache(run.folder, part.number) if run.model.kind == "http" else None

    async def predict(table: pa.Table) -> Predictions:
        return await predict_remotely(model_of(run), run, table, current_task(), cache=cache)

    async def submit_isolated(values: str, rows: Sequence[RowToIsolate]) -> IsolatedRows:
        failure_limit.raise_if_stopped(run)
        return await asyncio.to_thread(
            isolated_rows.submit, remote_row, run, graph, part.number, values, rows
        )

    try:
        result = await _unless_stopped(run, part, run_chunk(run, part, predict, submit_isolated))
    except (Snooze, Retry):  # the next attempt makes the missing requests only
        if cache is not None:
            cache.save()
        raise
    if cache is not None:
        cache.delete()
    return result


@task(
    kinds.ASSEMBLE, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def assemble(
    manifest: str, graph: int, submission: int, stage: int = 1, overwrite: bool = False
) -> dict[str, object]:
    """Assemble the output from the parts."""
    run = load_manifest(manifest)
    failure_limit.raise_if_stopped(run)
    row_task = remote_row if run.asynchronous else row
    return assemble_run(assemble, row_task, run, graph, submission, stage, overwrite=overwrite)


async def _unless_stopped(
    run: Manifest, part: Chunk, work: Coroutine[Any, Any, dict[str, object]]
) -> dict[str, object]:
    """Do the work of a chunk and count its rows; skip it if the run is stopped."""
    try:
        failure_limit.raise_if_stopped(run)
        return failure_limit.record_chunk(run, part.number, await work)
    except RunStopped:
        return failure_limit.skipped_result()
    finally:
        work.close()


async def _predict_rows(manifest: Manifest, table: pa.Table) -> Predictions:
    return LocalModel(manifest, current_batch()[0]).predict(table)


async def _predict_rows_remotely(manifest: Manifest, table: pa.Table) -> Predictions:
    gate = one_at_a_time(manifest.model.ref)
    return await predict_remotely(model_of(manifest), manifest, table, current_batch()[0], gate)


def _run_to_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("a model that computes in this process must not wait")


if in_worker():  # the command imports this module as well
    warm_up()
