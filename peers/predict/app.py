"""The handlers of predictions: `peers run --app peers.predict.app --queues predict=2`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Coroutine
from datetime import timedelta
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import pyarrow as pa

from peers import Reject, Retry, Snooze, current_batch, current_task, task
from peers.predict import kinds, models
from peers.predict.errors import ModelError, RunStopped
from peers.predict.models import model_process
from peers.predict.models.model_process_fork import invited, serve_in_fork
from peers.predict.models.time_limit import limited, traced
from peers.predict.models.timer_signals import TimerSignals
from peers.predict.sizes import MOST_DEATHS
from peers.predict.spec import Chunk, Manifest, ModelRef, load_manifest
from peers.predict.tasks import brake, isolated_rows
from peers.predict.tasks.answers import Answers
from peers.predict.tasks.assemble import assemble_run
from peers.predict.tasks.chunk import run_chunk
from peers.predict.tasks.remote import one_at_a_time, predict_remotely
from peers.predict.tasks.rows import RowArgs, run_rows
from peers.predict.variables import batch_wait, in_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers import CurrentTask
    from peers.predict.models import Model, Predictions

T = TypeVar("T")

# Each batch of a chunk may hold a row that takes the worker and an attempt along; peers die, too.
_CHUNK_ATTEMPTS: Final = MOST_DEATHS + 36
_BACKOFF: Final = timedelta(milliseconds=100)
_BACKOFF_CAP: Final = timedelta(seconds=2)
_ROWS_AT_ONCE: Final = 1000


@task(
    kinds.ROW, queue=kinds.QUEUE, batch_size=_ROWS_AT_ONCE, batch_wait=batch_wait(),
    backoff=_BACKOFF, backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def row(tasks: list[RowArgs]) -> list[Any]:
    """Predict rows that spoilt their batch, or are suspected to."""
    return _at_once(run_rows(tasks, _predict_for))


@task(
    kinds.REMOTE_ROW, queue=kinds.QUEUE, batch_size=_ROWS_AT_ONCE, batch_wait=batch_wait(),
    backoff=_BACKOFF, backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
async def remote_row(tasks: list[RowArgs]) -> list[Any]:
    """Predict rows that stand alone, for a model that is waited for."""
    return await run_rows(tasks, _predict_remotely_for)


@task(
    kinds.CHUNK, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def chunk(manifest: str, input: str, chunk: int, first: int, rows: int) -> dict[str, object]:
    """Predict a range of rows of the input."""
    del input  # for people who look at the task
    run, part = load_manifest(manifest), Chunk(chunk, first, rows)
    strict = _Strict(run, current_task())

    async def predict(table: pa.Table) -> Predictions:
        return strict.predict(table)

    async def hand_over(values: str, doubts: Sequence[isolated_rows.Doubt]) -> isolated_rows.Alone:
        brake.require_going(run)
        return isolated_rows.submit(row, run, part.number, values, doubts)

    return _at_once(_unless_stopped(run, part, run_chunk(run, part, predict, hand_over)))


@task(
    kinds.REMOTE, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=timedelta(minutes=1),
)  # fmt: skip
async def remote(manifest: str, input: str, chunk: int, first: int, rows: int) -> dict[str, object]:
    """Predict a range of rows, for a model that is waited for."""
    del input
    run, part = load_manifest(manifest), Chunk(chunk, first, rows)

    answers = Answers(run.folder, part.number) if run.model.kind == "http" else None

    async def predict(table: pa.Table) -> Predictions:
        return await predict_remotely(_model(run), run, table, current_task(), answers=answers)

    async def hand_over(values: str, doubts: Sequence[isolated_rows.Doubt]) -> isolated_rows.Alone:
        brake.require_going(run)
        return await asyncio.to_thread(
            isolated_rows.submit, remote_row, run, part.number, values, doubts
        )

    try:
        done = await _unless_stopped(run, part, run_chunk(run, part, predict, hand_over))
    except (Snooze, Retry):  # the next attempt asks for what is missing only
        if answers is not None:
            answers.keep()
        raise
    if answers is not None:
        answers.discard()
    return done


@task(
    kinds.ASSEMBLE, queue=kinds.QUEUE, max_attempts=_CHUNK_ATTEMPTS, backoff=_BACKOFF,
    backoff_cap=_BACKOFF_CAP,
)  # fmt: skip
def assemble(
    manifest: str, turn: int, stage: int = 1, overwrite: bool = False
) -> dict[str, object]:
    """Write the output, out of the parts."""
    run = load_manifest(manifest)
    brake.require_going(run)
    alone = remote_row if run.asynchronous else row
    return assemble_run(assemble, alone, run, turn, stage, overwrite=overwrite)


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
    """Return the run's model, which stays loaded after the first time."""
    return _load(manifest.model, _trust())


def _trust() -> models.Trust:
    """Return what this worker trusts: who names a model on the command line trusts it."""
    trust, named = models.Trust.from_environment(), _named_model()
    return trust if named is None else trust.with_named(named)


@cache
def _named_model() -> ModelRef | None:
    """Return the model that the command named which has started this peer, if one has."""
    if kinds.NAMED_MODEL not in os.environ:
        return None
    try:
        return _resolve_named()
    except ModelError:
        return None  # the command says why


@cache
def _resolve_named() -> ModelRef:
    """Raises KeyError if no command has named one."""
    return models.resolve(*json.loads(os.environ[kinds.NAMED_MODEL]))


def _warm_up() -> None:
    """Import and load what each worker needs before there is a task.

    That is done once where workers are forked, which then share the model's memory, and while the
    command still looks through its input.
    """
    command = invited()  # to load the model takes a process that may die of it
    pa.array(np.zeros(1))  # pyarrow looks for pandas once, which takes half a second to import
    with contextlib.suppress(Exception, SystemExit):  # the command, which tries it, says why
        _load_named()
    if command is not None:
        serve_in_fork(command, partial(model_process.serve, load=_load_named))


def _load_named() -> tuple[ModelRef, Model]:
    """Load what the command has named; what goes wrong goes wrong each time."""
    named = _resolve_named()
    return named, _load(named, _trust())


@lru_cache(maxsize=4)
def _load(reference: ModelRef, trust: models.Trust) -> Model:
    """Load a model; it stays what its digest says, whatever becomes of its file."""
    return models.load(reference, trust)


async def _predict_for(manifest: Manifest, table: pa.Table) -> Predictions:
    return _Strict(manifest, current_batch()[0]).predict(table)


async def _predict_remotely_for(manifest: Manifest, table: pa.Table) -> Predictions:
    return await predict_remotely(
        _model(manifest), manifest, table, current_batch()[0], one_at_a_time(manifest.model.ref)
    )


class _Strict:
    """A model that computes: in time, and without a second chance if it breaks its contract."""

    def __init__(self, manifest: Manifest, task: CurrentTask) -> None:
        self._task = task
        self._timeout = manifest.timeout
        self._signals = _signals_of(manifest.model)
        with self._signals.lent():
            self._model = _model(manifest)

    def predict(self, table: pa.Table) -> Predictions:
        """Predict these rows. Raises Reject, such as for a wrong number of results."""
        try:
            with self._signals.lent(), limited(self._task, self._timeout), traced(self._timeout):
                return self._model.predict(table)
        except ModelError as error:
            raise Reject(str(error)) from error


@cache
def _signals_of(_reference: ModelRef) -> TimerSignals:
    return TimerSignals()


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("a model that computes must not wait")


if in_worker():  # the command imports this module, too
    _warm_up()
