"""Write the output of a run as its last task, when every row has an outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from peers import ParentFailure, Reject, Retry, Task, TaskState, current_task
from peers.predict import outputs
from peers.predict.errors import OutputConflict
from peers.predict.kinds import QUEUE, assemble_key
from peers.predict.spec import Manifest
from peers.predict.tasks import isolated_rows
from peers.predict.tasks.rows import decoded

if TYPE_CHECKING:
    from peers import Parent
    from peers.predict.tasks.isolated_rows import IsolatedRows

_MAX_WAIT: Final = 60.0
_ENDED = frozenset({TaskState.COMPLETED, TaskState.DEAD, TaskState.CANCELLED})


def assemble_run(
    task: Task[..., Any], row: Task[..., Any], manifest: Manifest, graph_id: int,
    submission: int, stage: int, *, overwrite: bool,
) -> dict[str, object]:  # fmt: skip
    """Write the output, or submit a second stage that waits for the isolated rows.

    The parents of the first stage are the chunks, those of the second the rows' tasks. Raises
    Reject for an error that no further attempt can fix.
    """
    try:
        chunks = range(manifest.chunks)
        found = [isolated_rows.IsolatedRows.of_part(manifest.folder, chunk) for chunk in chunks]
        isolated = [one for one in found if one is not None]
        if isolated and stage == 1:
            return _wait_for(
                task, row, manifest, graph_id, submission, isolated, overwrite=overwrite
            )
        parents = {parent.id: parent for parent in current_task().parents()} if isolated else {}
        return _write(manifest, isolated, parents, overwrite=overwrite)
    except OutputConflict as error:
        raise Reject(str(error)) from error


def _wait_for(
    task: Task[..., Any], row: Task[..., Any], manifest: Manifest, graph_id: int, submission: int,
    isolated: list[IsolatedRows], *, overwrite: bool,
) -> dict[str, object]:  # fmt: skip
    isolated = [isolated_rows.resubmit(row, manifest, graph_id, each) for each in isolated]
    tasks = [row.task_id for each in isolated for row in each.rows]
    successor = task.options(
        queue=QUEUE,
        depends_on=tasks,
        on_parent_failure=ParentFailure.RUN,
        idempotency_key=assemble_key(manifest.run, submission, stage=2),
        metadata={"run": manifest.run, "name": manifest.name},
        graph=graph_id,
    ).submit(manifest=str(manifest.path), graph=graph_id, submission=submission, stage=2,
             overwrite=overwrite)  # fmt: skip
    return {"continued": successor, "isolated": len(tasks)}


def _write(
    manifest: Manifest, isolated: list[IsolatedRows], parents: Mapping[int, Parent],
    *, overwrite: bool,
) -> dict[str, object]:  # fmt: skip
    predicted: dict[int, outputs.IsolatedPredictions] = {}
    dead = 0
    for each in isolated:
        states = [_state(parents, row.task_id) for row in each.rows]
        done = [r for r, state in zip(each.rows, states, strict=True) if state == "completed"]
        dead += len(each.rows) - len(done)
        if done:
            rows = [row.row for row in done]
            predictions = [decoded(parents[row.task_id].result) for row in done]
            predicted[each.chunk] = outputs.IsolatedPredictions(rows, each.values, predictions)
    written = outputs.assemble(manifest, predicted, dead=dead, overwrite=overwrite)
    return {
        "rows": manifest.input.rows, "predicted": written.rows,
        "isolated": sum(len(each.rows) for each in isolated), "dead": dead,
        "output": str(written.path), "bytes": written.bytes,
    }  # fmt: skip


def _state(parents: Mapping[int, Parent], task_id: int) -> str:
    parent = parents.get(task_id)
    if parent is None:
        raise Reject(f"task {task_id} of an isolated row no longer exists")
    if parent.state not in _ENDED:
        wait = min(_MAX_WAIT, float(current_task().attempt))
        raise Retry(
            in_=wait, message=f"task {task_id} is {parent.state} again: it was retried meanwhile"
        )
    return parent.state
