"""Predict isolated rows: tasks of a batch handler, so the scheduler finds the failing ones."""

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
from peers.predict.tasks import failure_limit
from peers.predict.tasks.isolate import BatchOutcome, isolate, retry_if_endpoint_fails
from peers.predict.tasks.row_checks import json_text
from peers.predict.texts import error_text, row_label

if TYPE_CHECKING:
    from peers.predict.predictions import Predictions

_SHOWN: Final = 100
"""Characters of a prediction in a task's result."""
_ATTEMPTS_WITHOUT_KNOWN_GOOD: Final = 10
"""Of a row for which an endpoint fails, if no other row shows whether the endpoint works."""
_MAX_WAIT: Final = 60.0
"""Seconds between these attempts."""

PredictFor: TypeAlias = Callable[[Manifest, pa.Table], "Awaitable[Predictions]"]


class RowArgs(TypedDict):
    """The args of a row's task. `row` counts from the start of the input.

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
    """Return a result or an exception for each task; only failing rows get the model's exception.

    Raises errors of Peers itself: they concern all tasks.
    """
    results: dict[int, Any] = {}
    attempts = [current.attempt for current in current_batch()]
    order = sorted(range(len(tasks)), key=lambda place: _file_of(tasks[place]))
    for _, places in groupby(order, key=lambda place: _file_of(tasks[place])):
        members = list(places)
        manifest = load_manifest(tasks[members[0]]["manifest"])
        if len(tasks) == 1 and attempts[0] >= manifest.max_attempts:
            failure_limit.mark_last_attempt(manifest, tasks[0]["row"])
        found = await _run_one_file([tasks[place] for place in members], predict)
        for place in members:
            results[place] = _outcome(tasks[place], attempts[place], found)
        failure_limit.record_rows(
            manifest, {tasks[place]["row"]: results[place] for place in members}
        )
    return [results[place] for place in range(len(tasks))]


def result_of(prediction: pa.Table) -> dict[str, Any]:
    """Return the result of a row's task, with Arrow data: JSON lacks dates, bytes and NaN."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, prediction.schema) as writer:
        writer.write_table(prediction)
    arrow = base64.b64encode(sink.getvalue()).decode()
    return {"prediction": _shown(prediction), "arrow": arrow}


def decoded(result: Mapping[str, str]) -> pa.Table:
    """Return the prediction in a row's result as a table with one row, in its own type."""
    with pa.ipc.open_stream(base64.b64decode(result["arrow"])) as reader:
        return reader.read_all()


def _file_of(task: RowArgs) -> tuple[str, str]:
    return task["manifest"], task["values"]


async def _run_one_file(tasks: Sequence[RowArgs], predict: PredictFor) -> dict[int, Any]:
    """Return, by row number, a table with the prediction, or the error of the row."""
    manifest = load_manifest(tasks[0]["manifest"])
    labels = {task["row"]: row_label(task) for task in tasks}
    try:
        failure_limit.raise_if_stopped(manifest)
    except RunStopped as stop:
        return {task["row"]: stop for task in tasks}
    # the problem is known, so no attempt can succeed
    found: dict[int, Any] = {
        task["row"]: Reject(f"{row_label(task)}: {task['problem']}")
        for task in tasks
        if task["problem"] is not None
    }
    rows = [task["row"] for task in tasks if task["row"] not in found]
    if not rows:
        return found
    values = outputs.read_isolated_values(manifest.folder, tasks[0]["values"], rows)
    features = manifest.features_of(values.rows)
    known_good = manifest.features_of(values.known_good)

    async def call(places: Sequence[int]) -> Predictions:
        return await predict(manifest, features.take(list(places)))

    async def predict_known_good(places: Sequence[int]) -> Predictions:
        return await predict(manifest, known_good.take(list(places)))

    async def on_failure(error: Exception, _rows: Sequence[int]) -> None:
        await retry_if_endpoint_fails(range(known_good.num_rows), predict_known_good, error)

    for start in range(0, len(rows), manifest.batch_size):
        places = range(start, min(start + manifest.batch_size, len(rows)))
        try:
            batch = await isolate(places, call, on_failure)
        except Snooze as snooze:  # keep the outcomes so far
            found.update(dict.fromkeys(rows[start:], snooze))
            break
        found |= _fitted(manifest, batch, rows, labels)
        for place, error in batch.errors.items():
            found[rows[place]] = _or_retry(error, has_known_good=known_good.num_rows > 0)
    return found


def _fitted(
    manifest: Manifest, batch: BatchOutcome, rows: Sequence[int], labels: dict[int, str]
) -> dict[int, Any]:
    """Return, by row number, a table with the prediction, or why the output cannot hold it."""
    members = [place for some, _ in batch.predictions for place in some]
    fitted = outputs.fit(
        manifest.folder, outputs.requested_columns(manifest), [one for _, one in batch.predictions]
    )
    found: dict[int, Any] = {
        rows[members[place]]: fitted.table.slice(number, 1).combine_chunks()
        for number, place in enumerate(fitted.places.tolist())
    }
    for place, why in fitted.problems.items():
        row = rows[members[place]]
        found[row] = Reject(f"{labels[row]}: {why}")
    return found


def _or_retry(error: Exception, *, has_known_good: bool) -> Exception:
    """Return the error, or Retry if it is unknown whether the row or the endpoint is to blame."""
    attempt = current_batch()[0].attempt
    if (
        not isinstance(error, EndpointError)
        or has_known_good
        or attempt >= _ATTEMPTS_WITHOUT_KNOWN_GOOD
    ):
        return error
    return Retry(in_=min(2.0**attempt, _MAX_WAIT), message=str(error))


def _outcome(task: RowArgs, attempt: int, found: Mapping[int, Any]) -> Any:
    manifest, one = load_manifest(task["manifest"]), found[task["row"]]
    if isinstance(one, pa.Table):
        return result_of(one)
    if isinstance(one, Reject | Retry):
        return one
    message = f"{row_label(task)}: {error_text(one)}"
    # the scheduler's limit is larger, since attempts may also fail without the row's fault
    is_last = attempt >= manifest.max_attempts
    error: Exception = Reject(message) if is_last else RowError(message)
    error.__cause__ = one  # the dead letter shows its traceback
    return error


def _shown(prediction: pa.Table) -> Any:
    """Return the prediction for display, shortened: lists and dicts may be large."""
    (row,) = prediction.to_pylist()
    value = row["prediction"] if list(row) == ["prediction"] else row
    if value is None or isinstance(value, bool | int):
        return value
    return json_text(value)[:_SHOWN]
