"""Rows that a chunk could not predict, and the tasks of their own that they become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from peers import Task, graph
from peers.predict import outputs
from peers.predict.kinds import QUEUE, row_key
from peers.predict.spec import Manifest
from peers.predict.tasks.row_turns import row_turns

_AT_ONCE: Final = 500
_PRIORITY: Final = 90
"""Before the chunks that wait: else they would keep the run from ending."""
_REMOTE_ATTEMPTS: Final = 100
"""An endpoint that fails says nothing of the row; `rows` rejects it for errors of its own."""


class Suspect(NamedTuple):
    """A row that has a task of its own."""

    task_id: int
    row: int
    id: Any
    problem: str | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row to be looked at alone: `row` counts from the start of the input.

    `id`: as JSON holds it; `problem`: why it cannot be predicted, if that is known already.
    """

    row: int
    id: Any
    problem: str | None = None


class Alone(NamedTuple):
    """The suspects of a chunk, and the file that has their values."""

    chunk: int
    values: str
    suspects: list[Suspect]

    def as_note(self) -> str:
        """Return what is kept with the chunk's part, for the assembling task."""
        return json.dumps(self)

    @classmethod
    def of_part(cls, folder: Path, chunk: int) -> Alone | None:
        """Return those of a finished part, or None. Raises OutputError without the part."""
        note = outputs.note_of_part(folder, chunk)
        if not note:
            return None
        chunk, values, fields = json.loads(note)
        return cls(chunk, values, [Suspect(*each) for each in fields])


def submit(
    task: Task[..., Any], manifest: Manifest, chunk: int, values: str, doubts: Sequence[Doubt]
) -> Alone:
    """Give each of these rows a task; one that has it already keeps it."""
    suspects: list[Suspect] = []
    turns = row_turns(manifest.folder)
    options = task.options(
        queue=QUEUE,
        priority=_PRIORITY,
        max_attempts=_REMOTE_ATTEMPTS if manifest.model.kind == "http" else manifest.max_attempts,
        metadata={"run": manifest.run, "name": manifest.name},
    )
    for start in range(0, len(doubts), _AT_ONCE):
        slice_ = doubts[start : start + _AT_ONCE]
        with graph() as g:
            nodes = [
                g.add(
                    options.options(
                        idempotency_key=row_key(manifest.run, doubt.row, turns.get(doubt.row, 1))
                    ),
                    input=manifest.source,
                    row=doubt.row,
                    id=doubt.id,
                    manifest=str(manifest.path),
                    chunk=chunk,
                    values=values,
                    problem=doubt.problem,
                )
                for doubt in slice_
            ]
        suspects += [
            Suspect(node.id, doubt.row, doubt.id, doubt.problem)
            for node, doubt in zip(nodes, slice_, strict=True)
        ]
    return Alone(chunk, values, suspects)


def submit_again(task: Task[..., Any], manifest: Manifest, alone: Alone) -> Alone:
    """Return the same rows, with tasks for those whose tasks are gone."""
    doubts = [Doubt(suspect.row, suspect.id, suspect.problem) for suspect in alone.suspects]
    again = submit(task, manifest, alone.chunk, alone.values, doubts)
    if again != alone:
        outputs.annotate_part(manifest.folder, alone.chunk, again.as_note())
    return again
