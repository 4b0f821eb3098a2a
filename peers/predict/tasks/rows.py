"""Rows that stand alone: a batch handler's tasks, so that the scheduler finds out who spoils it."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
from typing_extensions import TypedDict

from peers import Reject, Retry, Snooze, current_batch
from peers.predict import outputs
from peers.predict.errors import EndpointError, RowError, RunStopped
from peers.predict.spec import Manifest, load_manifest
from peers.predict.tasks import brake
from peers.predict.tasks.isolate import Isolated, isolate, require_answers
from peers.predict.tasks.row_checks import plain_text
from peers.predict.texts import name_of_row, told

if TYPE_CHECKING:
    from peers.predict.outputs.results import Predictions

_SHOWN: Final = 100
"""Characters of a prediction in a task's result."""
_UNWITNESSED_ATTEMPTS: Final = 10
"""Of a row for which an endpoint fails, where no other row shows whether the endpoint works."""
_LONGEST_WAIT: Final = 60.0
"""Seconds between these attempts."""

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
    """Return a result or an exception for each; what the model raises is that of the rows to blame.

    Raises what Peers itself raises: that holds for all.
    """
    results: dict[int, Any] = {}
    attempts = [current.attempt for current in current_batch()]
    order = sorted(range(len(tasks)), key=lambda place: _file_of(tasks[place]))
    for _, places in groupby(order, key=lambda place: _file_of(tasks[place])):
        members = list(places)
        manifest = load_manifest(tasks[members[0]]["manifest"])
        if len(tasks) == 1 and attempts[0] >= manifest.max_attempts:
            brake.begin_last_attempt(manifest, tasks[0]["row"])
        found = await _run_one_file([tasks[place] for place in members], predict)
        for place in members:
            results[place] = _outcome(tasks[place], attempts[place], found)
        brake.count_rows(manifest, {tasks[place]["row"]: results[place] for place in members})
    return [results[place] for place in range(len(tasks))]


def result_of(prediction: pa.Table) -> dict[str, Any]:
    """Return the result of a row's task: JSON lacks dates, bytes, NaN and kinds of numbers."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, prediction.schema) as writer:
        writer.write_table(prediction)
    arrow = base64.b64encode(sink.getvalue()).decode()
    return {"prediction": _shown(prediction), "arrow": arrow}


def decoded(result: Mapping[str, str]) -> pa.Table:
    """Return the prediction of a row that stood alone, as a table of it alone, in its own type."""
    with pa.ipc.open_stream(base64.b64decode(result["arrow"])) as reader:
        return reader.read_all()


def _file_of(task: RowArgs) -> tuple[str, str]:
    return task["manifest"], task["values"]


async def _run_one_file(tasks: Sequence[RowArgs], predict: PredictFor) -> dict[int, Any]:
    """Return, by row number, a table with its prediction, or why there is none."""
    manifest = load_manifest(tasks[0]["manifest"])
    named = {task["row"]: name_of_row(task) for task in tasks}
    try:
        brake.require_going(manifest)
    except RunStopped as stop:
        return {task["row"]: stop for task in tasks}
    # no attempt finds it otherwise
    found: dict[int, Any] = {
        task["row"]: Reject(f"{name_of_row(task)}: {task['problem']}")
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
        try:
            batch = await isolate(places, call, on_failure)
        except Snooze as snooze:  # what is found so far stays
            found.update(dict.fromkeys(rows[start:], snooze))
            break
        found |= _fitted(manifest, batch, rows, named)
        for place, error in batch.bad.items():
            found[rows[place]] = _patient(error, is_witnessed=witnesses.num_rows > 0)
    return found


def _fitted(
    manifest: Manifest, batch: Isolated, rows: Sequence[int], named: dict[int, str]
) -> dict[int, Any]:
    """Return, by row number, a table with the prediction, or why the output cannot hold it."""
    members = [place for some, _ in batch.good for place in some]
    fitted = outputs.fit(
        manifest.folder, outputs.asked_of(manifest), [one for _, one in batch.good]
    )
    found: dict[int, Any] = {
        rows[members[place]]: fitted.table.slice(number, 1).combine_chunks()
        for number, place in enumerate(fitted.places.tolist())
    }
    for place, why in fitted.problems.items():
        row = rows[members[place]]
        found[row] = Reject(f"{named[row]}: {why}")
    return found


def _patient(error: Exception, *, is_witnessed: bool) -> Exception:
    """Return the error, or a later attempt where nobody knows whether the row is to blame."""
    attempt = current_batch()[0].attempt
    if not isinstance(error, EndpointError) or is_witnessed or attempt >= _UNWITNESSED_ATTEMPTS:
        return error
    return Retry(in_=min(2.0**attempt, _LONGEST_WAIT), message=str(error))


def _outcome(task: RowArgs, attempt: int, found: Mapping[int, Any]) -> Any:
    manifest, one = load_manifest(task["manifest"]), found[task["row"]]
    if isinstance(one, pa.Table):
        return result_of(one)
    if isinstance(one, Reject | Retry):
        return one
    message = f"{name_of_row(task)}: {told(one)}"
    # the scheduler's own limit is larger where attempts may end for no fault of the row
    is_last = attempt >= manifest.max_attempts
    error: Exception = Reject(message) if is_last else RowError(message)
    error.__cause__ = one  # its traceback goes into the dead letter
    return error


def _shown(prediction: pa.Table) -> Any:
    """Return the prediction for people who look at the task; lists and dicts may be large."""
    (row,) = prediction.to_pylist()
    value = row["prediction"] if list(row) == ["prediction"] else row
    if value is None or isinstance(value, bool | int):
        return value
    return plain_text(value)[:_SHOWN]
