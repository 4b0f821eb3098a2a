"""Rows that a chunk could not predict: each becomes a task of its own."""

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
from peers.predict.tasks.row_submissions import row_submissions

_ROWS_PER_SUBMISSION: Final = 500
_PRIORITY: Final = 90
"""Ahead of the waiting chunks, so that isolated rows do not delay the end of the run."""
_REMOTE_ATTEMPTS: Final = 100
"""A failing endpoint says nothing about the row. `rows` rejects it for errors of its own."""


class IsolatedRow(NamedTuple):
    """A row that has a task of its own."""

    task_id: int
    row: int
    id: Any
    problem: str | None


@dataclass(frozen=True, slots=True)
class RowToIsolate:
    """A row that needs a task of its own. `row` counts from the start of the input.

    `id`: the row's id, as JSON holds it. `problem`: why it cannot be predicted, if that is known.
    """

    row: int
    id: Any
    problem: str | None = None


class IsolatedRows(NamedTuple):
    """The isolated rows of a chunk, and the file that has their values."""

    chunk: int
    values: str
    rows: list[IsolatedRow]

    def to_json(self) -> str:
        """Return the note that the chunk's part carries for the assembling task."""
        return json.dumps(self)

    @classmethod
    def of_part(cls, folder: Path, chunk: int) -> IsolatedRows | None:
        """Return those of a finished part, or None. Raises OutputError without the part."""
        note = outputs.note_of_part(folder, chunk)
        if not note:
            return None
        chunk, values, rows = json.loads(note)
        return cls(chunk, values, [IsolatedRow(*row) for row in rows])


def submit(
    task: Task[..., Any],
    manifest: Manifest,
    graph_id: int,
    chunk: int,
    values: str,
    rows: Sequence[RowToIsolate],
) -> IsolatedRows:
    """Submit a task of the run's graph for each of these rows; a row that has a task keeps it."""
    isolated: list[IsolatedRow] = []
    submissions = row_submissions(manifest.folder)
    options = task.options(
        queue=QUEUE,
        priority=_PRIORITY,
        max_attempts=_REMOTE_ATTEMPTS if manifest.model.kind == "http" else manifest.max_attempts,
        metadata={"run": manifest.run, "name": manifest.name},
        graph=graph_id,
    )
    for start in range(0, len(rows), _ROWS_PER_SUBMISSION):
        some = rows[start : start + _ROWS_PER_SUBMISSION]
        with graph() as g:
            nodes = [
                g.add(
                    options.options(
                        idempotency_key=row_key(manifest.run, row.row, submissions.get(row.row, 1))
                    ),
                    input=manifest.source,
                    row=row.row,
                    id=row.id,
                    manifest=str(manifest.path),
                    chunk=chunk,
                    values=values,
                    problem=row.problem,
                )
                for row in some
            ]
        isolated += [
            IsolatedRow(node.id, row.row, row.id, row.problem)
            for node, row in zip(nodes, some, strict=True)
        ]
    return IsolatedRows(chunk, values, isolated)


def resubmit(
    task: Task[..., Any], manifest: Manifest, graph_id: int, isolated: IsolatedRows
) -> IsolatedRows:
    """Submit tasks for those of these rows whose tasks are gone; return all of them."""
    rows = [RowToIsolate(row.row, row.id, row.problem) for row in isolated.rows]
    found = submit(task, manifest, graph_id, isolated.chunk, isolated.values, rows)
    if found != isolated:
        outputs.annotate_part(manifest.folder, isolated.chunk, found.to_json())
    return found
