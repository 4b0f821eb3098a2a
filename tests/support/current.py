"""Code that runs as a handler would, with a current task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from peers import context
from peers.context import CurrentTask


@dataclass
class _Only:
    task: CurrentTask

    def current_task(self, index: int) -> CurrentTask:
        assert index == 0
        return self.task


@contextmanager
def inside_handler(task: CurrentTask) -> Iterator[None]:
    """Run the body inside the handler of this task."""
    reset = context._current.set((_Only(task), 0))
    try:
        yield
    finally:
        context._current.reset(reset)
