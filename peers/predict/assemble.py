"""The last task of a run: write the output when every row is accounted for."""

from __future__ import annotations

from typing import Any, Final

from peers import ParentFailure, Task, TaskState, current_task
from peers.predict import outputs, suspects
from peers.predict.kinds import QUEUE, assemble_key
from peers.predict.spec import Manifest

_SHOWN: Final = 1000
"""Dead rows that the result names; there is a dead letter of each."""


def assemble_run(
    task: Task[..., Any], manifest: Manifest, turn: int, *, overwrite: bool
) -> dict[str, object]:
    """Write the output, or leave that to a successor which waits for the rows that stand alone.

    The first turn has the chunks for parents, the others the tasks of the rows.
    """
    chunks = range(manifest.chunks)
    alone = list(suspects.load(manifest.folder, chunks))
    if alone and turn == 1:
        successor = task.options(
            queue=QUEUE,
            depends_on=[suspect.task_id for suspect in alone],
            on_parent_failure=ParentFailure.RUN,
            idempotency_key=assemble_key(manifest.run, turn + 1),
            metadata={"run": manifest.run, "name": manifest.name},
        ).submit(manifest=str(manifest.path), turn=turn + 1, overwrite=overwrite)
        return {"continued": successor, "suspects": len(alone)}
    return _write(manifest, alone, overwrite=overwrite)


def _write(
    manifest: Manifest, alone: list[suspects.Suspect], *, overwrite: bool
) -> dict[str, object]:
    parents = {parent.id: parent for parent in current_task().parents()}
    extra, dead = [], []
    for suspect in sorted(alone, key=lambda suspect: suspect.row):
        parent = parents[suspect.task_id]
        if parent.state == TaskState.COMPLETED:
            extra.append(outputs.Extra(suspect.row, suspect.id, parent.result["prediction"]))
        else:
            dead.append(suspect)
    written = outputs.assemble(
        manifest, range(manifest.chunks), extra, dead=len(dead), overwrite=overwrite
    )
    return {
        "rows": manifest.input.rows, "predicted": written.rows, "alone": len(alone),
        "dead": len(dead), "dead_rows": dead[:_SHOWN],
        "output": str(written.path), "bytes": written.bytes,
    }  # fmt: skip
