"""The last task of a run: write the output when every row is accounted for."""

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
    from peers.predict.tasks.isolated_rows import Alone

_LONGEST_WAIT: Final = 60.0
_ENDED = frozenset({TaskState.COMPLETED, TaskState.DEAD, TaskState.CANCELLED})


def assemble_run(
    task: Task[..., Any], row: Task[..., Any], manifest: Manifest, turn: int, stage: int,
    *, overwrite: bool,
) -> dict[str, object]:  # fmt: skip
    """Write the output, or leave that to a successor which waits for the rows that stand alone.

    The first stage has chunks for parents, the second one the tasks of the rows. Raises Reject for
    what no further attempt can change.
    """
    try:
        chunks = range(manifest.chunks)
        found = [isolated_rows.Alone.of_part(manifest.folder, chunk) for chunk in chunks]
        alone = [one for one in found if one is not None]
        if alone and stage == 1:
            return _wait_for(task, row, manifest, turn, alone, overwrite=overwrite)
        parents = {parent.id: parent for parent in current_task().parents()} if alone else {}
        return _write(manifest, alone, parents, overwrite=overwrite)
    except OutputConflict as error:
        raise Reject(str(error)) from error


def _wait_for(
    task: Task[..., Any], row: Task[..., Any], manifest: Manifest, turn: int, alone: list[Alone],
    *, overwrite: bool,
) -> dict[str, object]:  # fmt: skip
    alone = [isolated_rows.submit_again(row, manifest, each) for each in alone]
    tasks = [suspect.task_id for each in alone for suspect in each.suspects]
    successor = task.options(
        queue=QUEUE,
        depends_on=tasks,
        on_parent_failure=ParentFailure.RUN,
        idempotency_key=assemble_key(manifest.run, turn, stage=2),
        metadata={"run": manifest.run, "name": manifest.name},
    ).submit(manifest=str(manifest.path), turn=turn, stage=2, overwrite=overwrite)
    return {"continued": successor, "alone": len(tasks)}


def _write(
    manifest: Manifest, alone: list[Alone], parents: Mapping[int, Parent], *, overwrite: bool
) -> dict[str, object]:
    extra: dict[int, outputs.Extra] = {}
    dead = 0
    for each in alone:
        states = [_state(parents, suspect.task_id) for suspect in each.suspects]
        done = [s for s, state in zip(each.suspects, states, strict=True) if state == "completed"]
        dead += len(each.suspects) - len(done)
        if done:
            rows = [suspect.row for suspect in done]
            predictions = [decoded(parents[suspect.task_id].result) for suspect in done]
            extra[each.chunk] = outputs.Extra(rows, each.values, predictions)
    written = outputs.assemble(manifest, extra, dead=dead, overwrite=overwrite)
    return {
        "rows": manifest.input.rows, "predicted": written.rows,
        "alone": sum(len(each.suspects) for each in alone), "dead": dead,
        "output": str(written.path), "bytes": written.bytes,
    }  # fmt: skip


def _state(parents: Mapping[int, Parent], task_id: int) -> str:
    parent = parents.get(task_id)
    if parent is None:
        raise Reject(f"task {task_id}, of a row that stands alone, is gone")
    if parent.state not in _ENDED:
        patience = min(_LONGEST_WAIT, float(current_task().attempt))
        raise Retry(
            in_=patience, message=f"task {task_id} is {parent.state}: somebody has retried it"
        )
    return parent.state
