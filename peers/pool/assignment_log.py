"""What the peer writes about its claimed tasks into memory that survives it.

The memory is the peer's liveness file. When the peer and all its workers have been killed, another
peer of the host reads there which tasks had not started (`peers.pool.unstarted`).

The file has the marks of the workers (`peers.protocol.started_marks`), how many records were
written, and a ring of the last records. A record says where some tasks of one claim are now. It is
written when they are claimed, before they are sent to a worker, and when a worker has given them
back. The newest record of a task counts.

This module imports nothing that takes long to import.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

from peers.protocol.started_marks import MARKS_BYTES, UNMARKED, WORD_BYTES, encode

if TYPE_CHECKING:
    import mmap

    from peers.pool.claim import TaskRun

RECORDS: Final = 4096
"""How many records the ring has. A full peer has about one for each task that it can hold."""
WORD: Final = struct.Struct("=Q")
RECORD: Final = struct.Struct("=QQ16sIII")
"""Number of the record, first execution id, token, index of the first task, how many, mark."""
CHECKED: Final = struct.Struct(f"={RECORD.size}sI")
"""A record and its checksum."""
RECORD_BYTES: Final = CHECKED.size

MAGIC: Final = b"peers v1"
"""The first word. A peer reads only files of its own version."""
COUNT_AT: Final = MARKS_BYTES
RING_AT: Final = COUNT_AT + WORD_BYTES
SIZE: Final = RING_AT + RECORDS * RECORD_BYTES

QUEUED: Final = 0xFFFF_FFFF
"""In place of a mark: the tasks wait in the peer. UNMARKED: they may have started."""


class AssignmentLog:
    """Writes the file. `memory` has SIZE bytes."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._memory = memory
        self._written = 0
        self._free_marks: list[int] = []
        self._next_mark = 1
        memory[: len(MAGIC)] = MAGIC
        WORD.pack_into(memory, COUNT_AT, encode(0))

    def take_mark(self) -> int:
        """Return a mark that nobody has; UNMARKED: there are none left."""
        if self._free_marks:
            # Its word stays. Execution ids only rise, so that of the next task is higher.
            return self._free_marks.pop()
        mark = self._next_mark
        if mark == UNMARKED:
            return UNMARKED
        self._next_mark += 1
        WORD.pack_into(self._memory, mark * WORD_BYTES, encode(0))
        return mark

    def free_mark(self, mark: int) -> None:
        """Take back the mark of a worker that has ended."""
        if mark != UNMARKED:
            self._free_marks.append(mark)

    def queued(self, run: TaskRun) -> None:
        """Record that these tasks wait in the peer."""
        self._write(run, QUEUED, 0)

    def assigned(self, run: TaskRun, mark: int, execution_id: int) -> None:
        """Record that these tasks will be sent to the worker with this mark."""
        self._write(run, mark, execution_id)

    def _write(self, run: TaskRun, mark: int, execution_id: int) -> None:
        claim, first, count = run
        if claim.rerun and not claim.rerun.isdisjoint(range(first, first + count)):
            mark = UNMARKED
        number = self._written
        at = RING_AT + number % RECORDS * RECORD_BYTES
        body = RECORD.pack(number, execution_id, claim.token, first, count, mark)
        CHECKED.pack_into(self._memory, at, body, crc32(body))
        self._written = number + 1
        # after the record: whoever reads relies on all records up to this number
        WORD.pack_into(self._memory, COUNT_AT, encode(number + 1))


def unpack_record(record: bytes) -> tuple[int, int, bytes, int, int, int] | None:
    """Return the fields of a record; None: it is damaged."""
    body, checksum = CHECKED.unpack(record)
    if checksum != crc32(body):
        return None
    fields: tuple[int, int, bytes, int, int, int] = RECORD.unpack(body)
    return fields
