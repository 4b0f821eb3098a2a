"""Rows that stand alone: a batch handler's tasks, so that the scheduler finds out who spoils it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
from typing_extensions import TypedDict

from peers import Reject, Retry
from peers.predict import inputs
from peers.predict.errors import InputChanged, ModelError, RowError
from peers.predict.fitness import unfit_rows
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
    """A result or an exception for each; raises what the model raises: the call is then halved."""
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
    unfit = unfit_rows(rows, manifest)
    indices = [task["row"] - chunk.first for task in tasks]
    fit = [index for index in indices if index not in unfit]
    predictions: dict[int, Any] = {}
    for start in range(0, len(fit), manifest.batch_size):
        batch = fit[start : start + manifest.batch_size]
        try:
            found = await predict(manifest, rows.table.take(batch))
        except (ModelError, Reject, Retry):
            raise
        except Exception as error:
            if len(tasks) > 1:
                raise
            raise _named(tasks[0], error) from error
        predictions.update(zip(batch, _plain(found), strict=True))
    return list(_outcomes(tasks, indices, unfit, predictions))


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
    return RowError(f"{_name(task)}: {type(error).__name__}: {error}")


def _name(task: RowArgs) -> str:
    id_ = "" if task["id"] is None else f" (id {task['id']!r})"
    return f"row {task['row']}{id_} of {task['input']}"
