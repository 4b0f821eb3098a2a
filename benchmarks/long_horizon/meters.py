"""Count tasks in shared memory: each process has a file of its own, and the adapter reads them all.

A process that is killed leaves its file behind, so nothing that it counted is lost.
"""

from __future__ import annotations

import functools
import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Self

from benchmarks.long_horizon import histogram

VARIABLE: Final = "LONG_HORIZON_METERS"
"""The environment variable that names the folder of the files."""
_SUFFIX: Final = ".meter"
_COUNTER_BYTES: Final = 8
_ENQUEUED, _STARTED, _COMPLETED = range(3)
_HEADER: Final = 3 * _COUNTER_BYTES
_CLAIM: Final = _HEADER
_END_TO_END: Final = _CLAIM + histogram.BYTES
_SIZE: Final = _END_TO_END + histogram.BYTES


class Counts(NamedTuple):
    """What the processes of a folder have counted together."""

    enqueued: int
    """Tasks whose INSERT was acknowledged."""
    started: int
    """Handler calls that began."""
    completed: int
    """Handler calls that returned."""


class Meter:
    """The counters of this process."""

    def __init__(self, folder: Path) -> None:
        path = folder / f"{os.getpid()}{_SUFFIX}"
        with path.open("w+b") as file:
            file.truncate(_SIZE)
            memory = memoryview(mmap.mmap(file.fileno(), _SIZE))
        self._header = memory[:_HEADER].cast("Q")
        self._claim = memory[_CLAIM:_END_TO_END].cast(histogram.COUNTER)
        self._end_to_end = memory[_END_TO_END:].cast(histogram.COUNTER)

    def enqueued(self, tasks: int) -> None:
        """Count tasks whose INSERT was acknowledged."""
        self._header[_ENQUEUED] += tasks

    def started(self, microseconds: int) -> None:
        """Count a handler call, and how long after its task's INSERT it began."""
        self._header[_STARTED] += 1
        self._claim[histogram.bucket(microseconds)] += 1

    def completed(self, microseconds: int) -> None:
        """Count a handler call that ends, and how long after its task's INSERT it does."""
        self._header[_COMPLETED] += 1
        self._end_to_end[histogram.bucket(microseconds)] += 1


@functools.cache
def meter() -> Meter:
    """Return the meter of this process. The first task of a worker makes it, after the fork."""
    return Meter(Path(os.environ[VARIABLE]))


def now() -> int:
    """Return microseconds of CLOCK_MONOTONIC, which all processes of a machine share."""
    return time.monotonic_ns() // 1000


class Reader:
    """Adds up the counters in a folder, often: it keeps the files mapped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._headers: dict[Path, memoryview] = {}

    def find(self) -> Self:
        """Map the files of processes that have begun to count since the last time."""
        for path in self._folder.rglob(f"*{_SUFFIX}"):
            if path not in self._headers and path.stat().st_size == _SIZE:
                with path.open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), _HEADER, access=mmap.ACCESS_READ)
                self._headers[path] = memoryview(mapped).cast("Q")
        return self

    def counts(self) -> Counts:
        """Return the sums of all counters."""
        return Counts(*(
            sum(header[place] for header in self._headers.values())
            for place in (_ENQUEUED, _STARTED, _COMPLETED)
        ))  # fmt: skip


def counts(folder: Path) -> Counts:
    """Return the sums of all counters in this folder and the folders in it."""
    return Reader(folder).find().counts()


def claim_latencies(folder: Path) -> int:
    """Return the sum of the histograms of the time from INSERT to start."""
    return histogram.add(_parts(folder, _CLAIM, histogram.BYTES))


def end_to_end_latencies(folder: Path) -> int:
    """Return the sum of the histograms of the time from INSERT to end."""
    return histogram.add(_parts(folder, _END_TO_END, histogram.BYTES))


def _parts(folder: Path, start: int, length: int) -> Iterable[bytes]:
    for path in folder.rglob(f"*{_SUFFIX}"):
        with path.open("rb") as file:
            file.seek(start)
            part = file.read(length)
        if len(part) == length:  # otherwise its process is just making it
            yield part
