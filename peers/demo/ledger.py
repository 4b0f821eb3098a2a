"""A record of what ran, outside of the database, so that the database need not be believed.

A handler that reached its end appends one line. What was recorded there and what the database says
must agree: that is how the demo counts what ran twice.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from peers import current_task

P = ParamSpec("P")
R = TypeVar("R")

# How a peer and its workers are told where the ledger is, and which peer they are.
FILE_VARIABLE = "DEMO_LEDGER"
PEER_VARIABLE = "DEMO_PEER"


class Entry(NamedTuple):
    """A handler reached its end: for which task, under which lease, on which peer of the demo."""

    task_id: int
    token: str
    attempt: int
    peer: int


def recorded(handler: Callable[P, R]) -> Callable[P, R]:
    """The handler, which enters itself into the ledger (if there is one) before it returns."""

    @functools.wraps(handler)
    def with_entry(*args: P.args, **kwargs: P.kwargs) -> R:
        result = handler(*args, **kwargs)
        file = os.environ.get(FILE_VARIABLE)
        if file is not None:
            task = current_task()
            peer = int(os.environ.get(PEER_VARIABLE, "0"))
            _append(file, Entry(task.id, task.token, task.attempt, peer))
        return result

    return with_entry


def read(file: Path) -> list[Entry]:
    """All entries in the order in which they were made, without a line that is being written."""
    *lines, _unfinished = file.read_text().split("\n")
    entries = []
    for line in lines:
        task_id, token, attempt, peer = line.split()
        entries.append(Entry(int(task_id), token, int(attempt), int(peer)))
    return entries


def _append(file: str, entry: Entry) -> None:
    """One write with O_APPEND: lines of several processes never mix, and none is lost by a kill."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, (" ".join(map(str, entry)) + "\n").encode())
    finally:
        os.close(descriptor)
