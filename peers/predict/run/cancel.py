"""`peers predict cancel`: end all tasks of a run, and wait until none of them runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import psycopg

from peers.predict.errors import RunState
from peers.predict.run.command import manifest_of
from peers.predict.run.live_tasks import LiveTask, live_tasks
from peers.predict.run.summary import Summary, summarize

if TYPE_CHECKING:
    from peers.predict.run.command import Connect
    from peers.predict.run.record import Connection

_TIMEOUT: Final = 120.0
"""Seconds. A peer that is gone loses its tasks when its lease expires."""
_LOOK_AGAIN: Final = 0.1


def cancel(connect: Connect, name: str) -> tuple[Summary, int]:
    """End the run of this name or id; return its summary, and how many tasks that ended.

    Raises NoSuchRun; RunState if the run is done, or if its tasks do not stop.
    """
    with connect() as connection:
        manifest = manifest_of(connection, name)
        count = _cancel_all(connection, manifest.run)
        summary = summarize(connection, manifest)
    assert summary is not None
    if not count and summary.state == "done":
        raise RunState(f"run {manifest.run} is done: there is nothing to cancel")
    return summary, count


def _cancel_all(connection: Connection, run: str) -> int:
    """Cancel until nothing is left: tasks that still run may submit others."""
    ended: set[int] = set()
    give_up = time.monotonic() + _TIMEOUT
    while live := live_tasks(connection, run):
        ended |= {task.id for task in live}
        _cancel_each(connection, live)
        if all(task.is_told for task in live):
            if time.monotonic() > give_up:
                raise RunState(
                    f"{len(live):,} tasks of run {run} are still running; their peers were told to "
                    "stop them",
                    "Run the same command again, or look at `peers status --running`.",
                )
            time.sleep(_LOOK_AGAIN)
    return len(ended)


def _cancel_each(connection: Connection, live: list[LiveTask]) -> None:
    """Cancel the assembling tasks first: they were submitted last, and no task waits for them."""
    for task in live:
        if task.is_told:
            continue
        try:
            connection.execute("select peers.cancel(%s)", [task.id])
        except psycopg.errors.DeadlockDetected:
            continue  # the next look finds it again
