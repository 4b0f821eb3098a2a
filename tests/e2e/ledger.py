"""The outside ledger: what handlers really did, kept where the database cannot touch it.

Each line is appended by one write(2) to a file opened with O_APPEND, so that the order of the lines
is the order of the events, whichever process wrote them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peers import current_task

LEDGER_VARIABLE: Final = "PEERS_TEST_LEDGER"


@dataclass(frozen=True)
class Entry:
    """A line: `place` is its number, `at` CLOCK_MONOTONIC in nanoseconds."""

    place: int
    task_id: int
    token: str
    event: str
    pid: int
    at: int

    @property
    def lease(self) -> tuple[int, str]:
        """What an outcome is settled by."""
        return self.task_id, self.token


def note(event: str) -> None:
    """Append a line about the task that runs here."""
    task = current_task()
    line = f"{task.id} {task.token} {event} {os.getpid()} {time.monotonic_ns()}\n"
    file = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


@contextmanager
def recorded() -> Iterator[None]:
    """Notes the start; then the end, or "stop" if it is an error; nothing if the process dies."""
    note("start")
    try:
        yield
    except BaseException:
        note("stop")
        raise
    note("end")


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file that grows; one that is still being written is left out.

    A reader can see the first part of a write where a page of the file ends.
    """
    return path.read_text().split("\n")[:-1] if path.exists() else []


def read(path: Path) -> list[Entry]:
    """Everything that was noted so far."""
    entries = []
    for place, line in enumerate(whole_lines(path)):
        task_id, token, event, pid, at = line.split()
        entries.append(Entry(place, int(task_id), token, event, int(pid), int(at)))
    return entries
