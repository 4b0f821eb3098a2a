"""Which workers a peer lacks at the moment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from peers.pool.handle import WorkerHandle

_STARTING_AT_ONCE: Final = os.cpu_count() or 1
_MOST_ISOLATED: Final = 8
"""Workers for suspects: each has the app in its memory once more. Where all that are innocent take
long, each step of the search leaves one at work: these are enough for 128 calls."""

Purpose: TypeAlias = bool | None
"""What a worker is for: None: whatever comes; else suspects only, async ones (True) or sync."""


def to_start(
    workers: Sequence[WorkerHandle], ordinary: int, suspects: Mapping[str, Counter[bool]],
    asked: Sequence[Purpose] = (),
) -> list[Purpose]:  # fmt: skip
    """Return the purposes of the workers to start now; what is starting reports by itself.

    `ordinary`: how many there should be that take whatever comes. `suspects`: how many parts wait
    in each queue for a worker of their own. `asked`: for what workers have been asked for already.
    """
    staying = sum(not worker.retiring and worker.purpose is None for worker in workers)
    staying += asked.count(None)
    lacking: list[Purpose] = [None] * (ordinary - staying)
    if suspects:
        lacking += _isolated(workers, suspects, asked)
    if not lacking:  # as at nearly every turn
        return lacking
    starting = sum(not worker.ready for worker in workers) + len(asked)
    return lacking[: max(0, _STARTING_AT_ONCE - starting)]


def _isolated(
    workers: Sequence[WorkerHandle],
    suspects: Mapping[str, Counter[bool]],
    asked: Sequence[Purpose],
) -> Iterator[Purpose]:
    unused = Counter(purpose for purpose in asked if purpose is not None)
    room = _MOST_ISOLATED - sum(worker.purpose is not None for worker in workers) - unused.total()
    unused.update(
        worker.purpose for worker in unused_isolated(workers) if worker.purpose is not None
    )
    for mode in (False, True):
        waiting = sum(counts[mode] for counts in suspects.values()) - unused[mode]
        more = max(0, min(waiting, room))
        room -= more
        yield from [mode] * more


def unused_isolated(workers: Iterable[WorkerHandle]) -> list[WorkerHandle]:
    """Return the workers for suspects that have been given none yet."""
    return [
        worker
        for worker in workers
        if worker.purpose is not None and not worker.retiring and not worker.tasks_given
    ]
