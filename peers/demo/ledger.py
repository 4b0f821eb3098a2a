"""A record of every run, kept outside the database.

A handler that reaches its end appends one line. The demo compares this record with what the
database says, and so finds tasks that ran twice.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Final, NamedTuple, ParamSpec, TypeVar

from peers import current_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

P = ParamSpec("P")
R = TypeVar("R")

FILE_VARIABLE: Final = "DEMO_LEDGER"
PEER_VARIABLE: Final = "DEMO_PEER"


class Entry(NamedTuple):
    """One run of a handler to its end: the task, its lease, and the number of the peer."""

    task_id: int
    token: str
    attempt: int
    peer: int


def recorded(handler: Callable[P, R]) -> Callable[P, R]:
    """Return the handler; if there is a ledger, it appends an entry before it returns."""

    @functools.wraps(handler)
    def with_entry(*args: P.args, **kwargs: P.kwargs) -> R:
        result = handler(*args, **kwargs)
        file = os.environ.get(FILE_VARIABLE)
        if file is not None:
            task = current_task()
            line = f"{task.id} {task.token} {task.attempt} {os.environ.get(PEER_VARIABLE, '0')}\n"
            _append(file, line)
        return result

    return with_entry


def read(file: Path) -> list[Entry]:
    """Return all entries in order; a line that is still being written is left out."""
    lines = (line.split() for line in file.read_text().split("\n")[:-1])
    return [
        Entry(int(task), token, int(attempt), int(peer)) for task, token, attempt, peer in lines
    ]


def _append(file: str, line: str) -> None:
    # one write with O_APPEND: lines of several processes never mix, and a kill loses none
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
