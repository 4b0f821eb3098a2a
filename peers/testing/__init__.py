"""Test what uses Peers: run handlers inline, drain a database, move its clock.

In a `conftest.py`, `pytest_plugins = ["peers.testing.fixtures"]` gives each test that asks for the
fixture `peers_database` a database of its own.
"""

# Names are imported at their first use: pytest loads the fixtures in every run.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.testing.clock import Clock
    from peers.testing.databases import Database, Databases
    from peers.testing.drained import Drained, DrainFailed
    from peers.testing.draining import drain, drain_async
    from peers.testing.inline import (
        TaskRun,
        run_batch,
        run_batch_async,
        run_task,
        run_task_async,
    )
    from peers.testing.real_peer import RealPeer, running_peer
    from peers.testing.requests import Cooldown, Progress, Submission
    from peers.testing.submissions import (
        assert_not_submitted,
        assert_submitted,
        assert_submitted_async,
        submitted,
        submitted_async,
    )

_PLACES = {
    "Clock": "clock",
    "Cooldown": "requests",
    "Database": "databases",
    "Databases": "databases",
    "DrainFailed": "drained",
    "Drained": "drained",
    "Progress": "requests",
    "RealPeer": "real_peer",
    "Submission": "requests",
    "TaskRun": "inline",
    "assert_not_submitted": "submissions",
    "assert_submitted": "submissions",
    "assert_submitted_async": "submissions",
    "drain": "draining",
    "drain_async": "draining",
    "run_batch": "inline",
    "run_batch_async": "inline",
    "run_task": "inline",
    "run_task_async": "inline",
    "running_peer": "real_peer",
    "submitted": "submissions",
    "submitted_async": "submissions",
}
__all__ = [
    "Clock",
    "Cooldown",
    "Database",
    "Databases",
    "DrainFailed",
    "Drained",
    "Progress",
    "RealPeer",
    "Submission",
    "TaskRun",
    "assert_not_submitted",
    "assert_submitted",
    "assert_submitted_async",
    "drain",
    "drain_async",
    "run_batch",
    "run_batch_async",
    "run_task",
    "run_task_async",
    "running_peer",
    "submitted",
    "submitted_async",
]


if not TYPE_CHECKING:  # for a type checker, any name would exist

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"peers.testing.{_PLACES[name]}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
