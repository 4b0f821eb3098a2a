"""Decide when the handlers of a worker must have ended, and when the peer kills it for one."""

from __future__ import annotations

import time
from typing import Final

from peers.pool.crash import CANCELLED, CRASH, KillReason
from peers.pool.durations import ASSIGNMENT_SECONDS
from peers.pool.executions import Execution, Executions
from peers.protocol.running_marker import Running, RunningMarker

RECALL_AFTER: Final = 0.1
"""A handler that runs longer delays the tasks behind it, so these are recalled."""
assert RECALL_AFTER > 2 * ASSIGNMENT_SECONDS, "a usual assignment must not be recalled"
_ASYNC_GRACE: Final = 2.0
"""How long an async handler that was stopped may take to yield."""

_EXCEEDED_KILL_AFTER: Final = "did not return within the time that it had set with kill_after()"
_BLOCKED_LOOP: Final = "was stopped: it blocked the event loop, so another could not be stopped"


class Deadlines:
    """The timeouts and cancellations of the tasks that a worker has.

    `executions` are those tasks, kept by the worker's handle.
    """

    def __init__(self, marker: RunningMarker, executions: Executions) -> None:
        self.asynchronous = False
        self._marker = marker
        self._executions = executions
        self._kill_at: dict[int, tuple[float, KillReason]] = {}
        """For cancelled tasks, and for async ones with a timeout."""

    def add(self, execution: Execution, calls: int) -> None:
        """Set the deadlines of async tasks, each of which may take up to `calls` handler calls."""
        if not self.asynchronous or not any(execution.run.claim.timeouts):
            return
        now = time.monotonic()
        for execution_id in range(execution.execution_id, execution.stop):
            timeout = execution.timeout(execution_id)
            if timeout is not None:
                reason = KillReason(execution_id, "timeout", _exceeded(timeout))
                self._kill_at[execution_id] = (now + timeout * calls + _ASYNC_GRACE, reason)

    def add_cancelled(self, execution_id: int, grace: float) -> None:
        """Set the deadline of a cancelled task, unless its own one comes before."""
        reason = KillReason(execution_id, CANCELLED, "stopped on request")
        cancel = (time.monotonic() + grace, reason)
        self._kill_at[execution_id] = min(cancel, self._kill_at.get(execution_id, cancel))

    def remove(self, execution: Execution) -> None:
        """Forget tasks that have ended."""
        if self._kill_at:
            for execution_id in range(execution.execution_id, execution.stop):
                self._kill_at.pop(execution_id, None)

    def exceeded(self, running: Running, now: float) -> KillReason | None:
        """Return why to kill the worker for the handler that runs; None: it may run on."""
        execution_id, _, since = running
        execution = self._executions.find(execution_id)
        if execution is None:
            return None
        timeout = execution.timeout(execution_id)
        grace = _ASYNC_GRACE if self.asynchronous else 0.0
        if timeout is not None and now - since > timeout + grace:
            return KillReason(execution_id, "timeout", _exceeded(timeout))
        if now > self._marker.kill_at() + grace:
            return KillReason(execution_id, "timeout", _EXCEEDED_KILL_AFTER)
        return None

    def is_slow(self, running: Running, now: float) -> bool:
        """Return whether a handler has run so long that others should not wait for it."""
        is_here = self._executions.find(running.execution_id) is not None
        return is_here and now - running.since > RECALL_AFTER

    def missed(self, running: Running, now: float) -> KillReason | None:
        """Return why to kill the worker for a task that has missed its deadline; None: none has."""
        for execution_id, (due, reason) in self._kill_at.items():
            runs = execution_id in running.execution_ids
            # a sync task that waits behind another handler is not worth killing that one
            if now <= due or not (self.asynchronous or runs):
                continue
            # an async handler that does not yield keeps the others from being stopped
            if self.asynchronous and not runs and self._executions.find(running.execution_id):
                return KillReason(running.execution_id, CRASH, _BLOCKED_LOOP)
            return reason
        return None

    def next(self, *, recall: bool) -> float:
        """Return when (monotonic) one of the methods above may return something new.

        `recall`: whether there are tasks to recall from behind a slow handler.
        """
        running = self._marker.running()
        execution = self._executions.find(running.execution_id)
        if self.asynchronous:
            due = min((due for due, _ in self._kill_at.values()), default=float("inf"))
            return due if execution is None else min(due, self._marker.kill_at() + _ASYNC_GRACE)
        due = min(
            (due for number, (due, _) in self._kill_at.items() if number in running.execution_ids),
            default=float("inf"),
        )
        if execution is None:
            return due
        due = min(due, self._marker.kill_at())
        if recall:
            due = min(due, running.since + RECALL_AFTER)
        timeout = execution.timeout(running.execution_id)
        if timeout is not None:
            due = min(due, running.since + timeout)
        return due


def _exceeded(timeout: float) -> str:
    return f"ran longer than its timeout of {timeout:g} s"
