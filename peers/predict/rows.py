"""Rows that stand alone: a batch handler's tasks, so that the scheduler finds out who spoils it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
from typing_extensions import TypedDict

from peers import Reject
from peers.predict import inputs
from peers.predict.errors import InputChanged, RowError
from peers.predict.fitness import unfit_rows
from peers.predict.isolate import isolate, require_answers
from peers.predict.spec import Chunk, Manifest, load_manifest

if TYPE_CHECKING:
    from peers.predict.models import Predictions

PredictFor: TypeAlias = Callable[[Manifest, pa.Table], "Awaitable[Predictions]"]


class RowArgs(TypedDict):
    """The args of such a task; `row` counts from the start of the input, `first` is the chunk's."""

    input: str
    row: int
    id: Any
    manifest: str
    chunk: int
    first: int
    rows: int
    where: dict[str, int]


async def run_rows(tasks: Sequence[RowArgs], predict: PredictFor) -> list[Any]:
    """A result or an exception for each; what the model raises becomes that of the rows to blame.

    Raises ModelError, Reject and Retry as the model does: they hold for all.
    """
    results: dict[int, Any] = {}
    order = sorted(range(len(tasks)), key=lambda place: _chunk_of(tasks[place]))
    for _, places in groupby(order, key=lambda place: _chunk_of(tasks[place])):
        members = list(places)
        outcomes = await _run_one_chunk([tasks[place] for place in members], predict)
        results.update(zip(members, outcomes, strict=True))
    return [results[place] for place in range(len(tasks))]


def _chunk_of(task: RowArgs) -> tuple[str, int]:
    return task["manifest"], task["chunk"]


async def _run_one_chunk(tasks: Sequence[RowArgs], predict: PredictFor) -> list[Any]:
    manifest = load_manifest(tasks[0]["manifest"])
    chunk = Chunk(tasks[0]["chunk"], tasks[0]["first"], tasks[0]["rows"], tasks[0]["where"])
    try:
        rows = inputs.read(manifest.input, chunk, list(manifest.features))
    except InputChanged as error:
        return [Reject(str(error))] * len(tasks)

    async def call(indices: Sequence[int]) -> Predictions:
        return await predict(manifest, rows.table.take(list(indices)))

    async def on_failure(error: Exception) -> None:
        suspected = {*indices, *unfit}
        others = [index for index in range(chunk.rows) if index not in suspected]
        await require_answers(others, call, error)

    unfit = unfit_rows(rows, manifest)
    indices = [task["row"] - chunk.first for task in tasks]
    fit = [index for index in indices if index not in unfit]
    found: dict[int, Any] = {}
    for start in range(0, len(fit), manifest.batch_size):
        batch = await isolate(fit[start : start + manifest.batch_size], call, on_failure)
        for members, predictions in batch.good:
            found.update(zip(members, _plain(predictions), strict=True))
        found |= batch.bad
    return list(_outcomes(tasks, indices, unfit, found))


def _outcomes(
    tasks: Sequence[RowArgs], indices: Sequence[int], unfit: dict[int, str], found: dict[int, Any]
) -> Iterator[Any]:
    for task, index in zip(tasks, indices, strict=True):
        if index in unfit:  # no further attempt reads it otherwise
            yield Reject(f"{_name(task)}: {unfit[index]}")
        elif isinstance(found[index], Exception):
            yield _named(task, found[index])
        else:
            yield {"prediction": found[index]}


def _plain(predictions: Predictions) -> list[Any]:
    """As JSON holds them: numpy's own numbers become Python's."""
    if isinstance(predictions, list):
        return [getattr(one, "tolist", lambda one=one: one)() for one in predictions]
    values: list[Any] = predictions.tolist()
    return values


def _named(task: RowArgs, error: Exception) -> RowError:
    named = RowError(f"{_name(task)}: {type(error).__name__}: {error}")
    named.__cause__ = error  # its traceback goes into the dead letter
    return named


def _name(task: RowArgs) -> str:
    id_ = "" if task["id"] is None else f" (id {task['id']!r})"
    return f"row {task['row']}{id_} of {task['input']}"
