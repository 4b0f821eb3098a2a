"""Find out for which handler call this code runs, also in threads, so that its output is named.

A coroutine and `asyncio.to_thread` have the call in their context. A thread that a handler starts
belongs to its call; it has no context. A thread of a pool works for many: in a sync worker it
belongs to the handler that runs, and in an async worker only what `run_in_executor` runs is known.
"""

from __future__ import annotations

import concurrent.futures.thread
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from peers import context
from peers.context import CurrentTask

_STARTED_BY: Final = "_peers_started_by"
_pool_thread: Final = getattr(concurrent.futures.thread, "_worker", None)


class Call(NamedTuple):
    """A handler call: its task, or the first one of its batch. `batch`: how many; 0: no batch."""

    task: CurrentTask
    batch: int

    def fields(self) -> dict[str, object]:
        """Return the fields of its log lines."""
        task = self.task
        if self.batch:
            return {
                "kind": task.kind, "first_task_id": task.id, "batch": self.batch,
                "attempt": task.attempt, "token": task.token,
            }  # fmt: skip
        return {
            "task_id": task.id, "kind": task.kind, "attempt": task.attempt, "token": task.token,
        }  # fmt: skip


def _nothing_runs() -> Call | None:
    return None


class _Process:
    """What runs in a sync worker, where one handler runs at a time."""

    running: Callable[[], Call | None] = staticmethod(_nothing_runs)


def use_running(running: Callable[[], Call | None]) -> None:
    """Attribute threads of pools to the call that `running` returns."""
    _Process.running = staticmethod(running)


def call_here() -> Call | None:
    """Return the call for which this code runs; None: for no handler, or it is unknown."""
    task = context.current()
    if task is not None:
        return Call(task, context.batch_size())
    thread = threading.current_thread()
    if getattr(thread, "_target", None) is _pool_thread is not None:
        return _Process.running()
    call: Call | None = getattr(thread, _STARTED_BY, None)
    return call


def follow_threads() -> None:
    """Note for each thread, from now on, which call has started it."""
    original = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        call = call_here()
        if call is not None:
            setattr(thread, _STARTED_BY, call)
        original(thread)

    threading.Thread.start = start  # type: ignore[method-assign, assignment]
