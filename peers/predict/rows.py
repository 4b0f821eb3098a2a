"""Rows that stand alone: a batch handler's tasks, so that the scheduler finds out who spoils it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
from typing_extensions import TypedDict

from peers import Reject, Retry, current_batch
from peers.predict import outputs
from peers.predict.errors import EndpointError, RowError
from peers.predict.fitness import plain_text
from peers.predict.isolate import isolate, require_answers
from peers.predict.spec import Manifest, load_manifest

if TYPE_CHECKING:
    from peers.predict.models import Predictions

_SHOWN: Final = 100
"""Characters."""
_UNWITNESSED_ATTEMPTS: Final = 10
_LONGEST_WAIT: Final = 60.0

PredictFor: TypeAlias = Callable[[Manifest, pa.Table], "Awaitable[Predictions]"]


class RowArgs(TypedDict):
    """The args of such a task; `row` counts from the start of the input.

    `values`: the file that has the row's values. `problem`: why it cannot be predicted, if known.
    """

    input: str
    row: int
    id: Any
    manifest: str
    chunk: int
    values: str
    problem: str | None


async def run_rows(tasks: Sequence[RowArgs], predict: PredictFor) -> list[Any]:
    """A result or an exception for each; what the model raises becomes that of the rows to blame.

    Raises what Peers itself raises: that holds for all.
    """
    results: dict[int, Any] = {}
    attempts = [current.attempt for current in current_batch()]
    order = sorted(range(len(tasks)), key=lambda place: _file_of(tasks[place]))
    for _, places in groupby(order, key=lambda place: _file_of(tasks[place])):
        members = list(places)
        found = await _run_one_file([tasks[place] for place in members], predict)
        for place in members:
            results[place] = _outcome(tasks[place], attempts[place], found)
    return [results[place] for place in range(len(tasks))]


def result_of(prediction: pa.Array) -> dict[str, Any]:
    """The result of a row's task: JSON has no dates, no bytes, no NaN and one kind of number."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([prediction], ["prediction"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    arrow = base64.b64encode(sink.getvalue()).decode()
    return {"prediction": _shown(prediction), "arrow": arrow}


def decoded(result: Mapping[str, str]) -> pa.Array:
    """The prediction of a row that stood alone, as an array of it alone, in its own type."""
    with pa.ipc.open_stream(base64.b64decode(result["arrow"])) as reader:
        return reader.read_all().column(0).combine_chunks()


def _file_of(task: RowArgs) -> tuple[str, str]:
    return task["manifest"], task["values"]


async def _run_one_file(tasks: Sequence[RowArgs], predict: PredictFor) -> dict[int, Any]:
    """By row number: an array with its prediction, or why there is none."""
    manifest = load_manifest(tasks[0]["manifest"])
    found: dict[int, Any] = {
        task["row"]: Reject(f"{_name(task)}: {task['problem']}")  # no attempt finds it otherwise
        for task in tasks
        if task["problem"] is not None
    }
    rows = [task["row"] for task in tasks if task["row"] not in found]
    if not rows:
        return found
    values = outputs.read_values(manifest.folder, tasks[0]["values"], rows)
    features = manifest.features_of(values.rows)
    witnesses = manifest.features_of(values.witnesses)

    async def call(places: Sequence[int]) -> Predictions:
        return await predict(manifest, features.take(list(places)))

    async def testify(places: Sequence[int]) -> Predictions:
        return await predict(manifest, witnesses.take(list(places)))

    async def on_failure(error: Exception, _rows: Sequence[int]) -> None:
        await require_answers(range(witnesses.num_rows), testify, error)

    for start in range(0, len(rows), manifest.batch_size):
        places = range(start, min(start + manifest.batch_size, len(rows)))
        batch = await isolate(places, call, on_failure)
        for members, predictions in batch.good:
            for place, prediction in _each(members, predictions, values.kind):
                found[rows[place]] = prediction
        for place, error in batch.bad.items():
            found[rows[place]] = _patient(error, is_witnessed=witnesses.num_rows > 0)
    return found


def _each(
    places: Sequence[int], predictions: Predictions, kind: pa.DataType | None
) -> Iterator[tuple[int, Any]]:
    for number, place in enumerate(places):
        try:
            one = outputs.array_of(predictions[number : number + 1])
            if kind is not None:  # that of the chunk's other rows
                fields = [pa.schema([("prediction", type_)]) for type_ in (kind, one.type)]
                pa.unify_schemas(fields, promote_options="permissive")
            yield place, one
        except Exception as error:  # noqa: BLE001  # whatever is in it cannot be written
            yield place, error


def _patient(error: Exception, *, is_witnessed: bool) -> Exception:
    """An endpoint that fails for a row is given time where nobody knows whether it is the row."""
    attempt = current_batch()[0].attempt
    if not isinstance(error, EndpointError) or is_witnessed or attempt >= _UNWITNESSED_ATTEMPTS:
        return error
    return Retry(in_=min(2.0**attempt, _LONGEST_WAIT), message=str(error))


def _outcome(task: RowArgs, attempt: int, found: Mapping[int, Any]) -> Any:
    manifest, one = load_manifest(task["manifest"]), found[task["row"]]
    if isinstance(one, pa.Array):
        return result_of(one)
    if isinstance(one, Reject | Retry):
        return one
    message = f"{_name(task)}: {type(one).__name__}: {one}"
    # the scheduler's own limit is larger where attempts may end for no fault of the row
    is_last = attempt >= manifest.max_attempts
    error: Exception = Reject(message) if is_last else RowError(message)
    error.__cause__ = one  # its traceback goes into the dead letter
    return error


def _shown(prediction: pa.Array) -> Any:
    """For people who look at the task; lists and dicts may be large."""
    value = prediction[0].as_py()
    if value is None or isinstance(value, bool | int):
        return value
    return plain_text(value)[:_SHOWN]


def _name(task: RowArgs) -> str:
    id_ = "" if task["id"] is None else f" (id {task['id']!r})"
    return f"row {task['row']}{id_} of {task['input']}"
