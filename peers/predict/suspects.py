"""Rows that a chunk could not predict, and the tasks of their own that they become."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from peers import Task, graph
from peers.predict import outputs
from peers.predict.kinds import QUEUE, row_key
from peers.predict.spec import Chunk, Manifest

_AT_ONCE: Final = 500
_PRIORITY: Final = 90
"""Before the chunks that wait: else they would keep the run from ending."""


class Suspect(NamedTuple):
    """A row that has a task of its own."""

    task_id: int
    row: int
    id: Any


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row to be looked at alone: `row` counts from the start of the input."""

    row: int
    id: Any


def submit(
    task: Task[..., Any], manifest: Manifest, chunk: Chunk, doubts: Sequence[Doubt]
) -> list[Suspect]:
    """Gives each of these rows a task; one that has it already keeps it."""
    suspects: list[Suspect] = []
    options = task.options(
        queue=QUEUE,
        priority=_PRIORITY,
        max_attempts=manifest.max_attempts,
        metadata={"run": manifest.run, "name": manifest.name},
    )
    for start in range(0, len(doubts), _AT_ONCE):
        slice_ = doubts[start : start + _AT_ONCE]
        with graph() as g:
            nodes = [
                g.add(
                    options.options(idempotency_key=row_key(manifest.run, doubt.row)),
                    input=manifest.source,
                    row=doubt.row,
                    id=doubt.id,
                    manifest=str(manifest.path),
                    chunk=chunk.number,
                    first=chunk.first,
                    rows=chunk.rows,
                    where=chunk.where,
                )
                for doubt in slice_
            ]
        suspects += [Suspect(n.id, d.row, d.id) for n, d in zip(nodes, slice_, strict=True)]
    return suspects


def as_note(suspects: Sequence[Suspect]) -> str:
    """What is kept with the chunk's part, for the assembling task."""
    return json.dumps(suspects)


def load(folder: Path, chunks: Sequence[int]) -> Iterator[Suspect]:
    """Those of these chunks. Raises OutputError when a part is missing."""
    for chunk in chunks:
        for fields in json.loads(outputs.note_of_part(folder, chunk)):
            yield Suspect(*fields)
