"""Find the tasks of an ended peer that no handler had started, from what its file says.

A task is found only if that is proven. Whatever is damaged or was overwritten proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peers.database.rows import UnstartedTasks
from peers.pool.assignment_log import (
    COUNT_AT,
    MAGIC,
    QUEUED,
    RECORD_BYTES,
    RECORDS,
    RING_AT,
    SIZE,
    WORD,
    unpack_record,
)
from peers.protocol.started_marks import UNMARKED, WORD_BYTES, decode

_CLAIM_MAX_TASKS: Final = 10_000
"""What `peers.claim` accepts."""


def find_unstarted(file: bytes) -> list[UnstartedTasks]:
    """Return the tasks that had not started when the peer ended."""
    if len(file) != SIZE or not file.startswith(MAGIC):
        return []
    seen: dict[bytes, int] = {}
    unstarted: dict[bytes, int] = {}
    # Sets of tasks are integers with a bit for each task. So even a forged file takes only
    # milliseconds.
    for execution_id, token, first, count, mark in _newest_first(file):
        tasks = (1 << count) - 1 << first
        started = _how_many_started(file, mark, execution_id, count)
        waiting = tasks >> first + started << first + started
        known = seen.get(token, 0)
        seen[token] = known | tasks
        unstarted[token] = unstarted.get(token, 0) | waiting & ~known
    return [found for token, tasks in unstarted.items() for found in _runs(token, tasks)]


def _newest_first(file: bytes) -> Iterator[tuple[int, bytes, int, int, int]]:
    """Yield execution id, token, first, count and mark of each record that can be relied on.

    A damaged record may be a newer one of any task. So those before it prove nothing.
    """
    (word,) = WORD.unpack_from(file, COUNT_AT)
    count = decode(word)
    if count is None:
        return
    # the peer may have been killed while it wrote over the oldest one
    for number in range(count - 1, max(-1, count - RECORDS), -1):
        at = RING_AT + number % RECORDS * RECORD_BYTES
        record = unpack_record(file[at : at + RECORD_BYTES])
        if record is None or record[0] != number:
            return
        _, execution_id, token, first, tasks, mark = record
        if first + tasks > _CLAIM_MAX_TASKS:
            return
        yield execution_id, token, first, tasks, mark


def _how_many_started(file: bytes, mark: int, execution_id: int, count: int) -> int:
    """Return how many of these tasks may have started."""
    if mark == QUEUED:
        return 0
    if mark >= UNMARKED or mark == 0:  # the first word is no mark
        return count
    (word,) = WORD.unpack_from(file, mark * WORD_BYTES)
    last_started = decode(word)
    if last_started is None:
        return count
    return min(max(0, last_started - execution_id + 1), count)


def _runs(token: bytes, tasks: int) -> Iterator[UnstartedTasks]:
    """Yield the runs of consecutive bits."""
    first = 0
    while tasks:
        gap = (tasks & -tasks).bit_length() - 1
        tasks >>= gap
        number = (~tasks & tasks + 1).bit_length() - 1
        tasks >>= number
        yield UnstartedTasks(token, first + gap, number)
        first += gap + number
