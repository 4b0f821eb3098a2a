"""Read when handlers started. Each process that runs handlers appends to a file of its own.

A handler writes 16 bytes: the number of its task and CLOCK_MONOTONIC in nanoseconds. So counting
progress costs the database nothing, and it costs all systems the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

RECORD: Final = np.dtype([("number", "<i8"), ("at", "<i8")])


class Starts:
    """The files of one run, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder

    def count(self) -> int:
        """Return how many handlers have started."""
        return sum(file.stat().st_size for file in os.scandir(self.folder)) // RECORD.itemsize

    def processes(self) -> int:
        """Return how many processes have started a handler."""
        return sum(1 for file in os.scandir(self.folder) if file.stat().st_size)

    def times(self) -> NDArray[np.int64]:
        """Return the times of all starts in ascending order, in nanoseconds."""
        return np.sort(self._read()["at"])

    def first_times(self) -> dict[int, int]:
        """Return when each task first started, by its number."""
        records = np.sort(self._read(), order="at")[::-1]
        return {int(number): int(at) for number, at in records}

    def last_process_started_at(self) -> int:
        """Return when the last process started its first handler."""
        return max(int(np.fromfile(file, RECORD, 1)["at"][0]) for file in self._files())

    def _files(self) -> list[Path]:
        return [file for file in self.folder.iterdir() if file.stat().st_size]

    def _read(self) -> NDArray[np.void]:
        parts = [_whole_records(file) for file in self._files()]
        return np.concatenate(parts) if parts else np.empty(0, RECORD)


def _whole_records(file: Path) -> NDArray[np.void]:
    return np.fromfile(file, RECORD, file.stat().st_size // RECORD.itemsize)
