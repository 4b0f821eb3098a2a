"""Peers: a leaderless task scheduler that lives in Postgres."""

# Names are imported when they are first asked for: the command line must be able to handle Ctrl-C
# before it loads anything, and a worker needs only some of them.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.client.graph import AsyncGraph, Graph, Node, graph
    from peers.client.task import Task, submit, task
    from peers.context import CurrentTask, Parent, current_batch, current_task
    from peers.errors import (
        ArgsInvalid,
        BadGraph,
        BadTask,
        ConfigError,
        CycleError,
        DatabaseUnreachable,
        PeersError,
        Reject,
        ResultInvalid,
        Retry,
        Snooze,
    )
    from peers.types import ParentFailure, TaskState

__all__ = [
    "ArgsInvalid",
    "AsyncGraph",
    "BadGraph",
    "BadTask",
    "ConfigError",
    "CurrentTask",
    "CycleError",
    "DatabaseUnreachable",
    "Graph",
    "Node",
    "Parent",
    "ParentFailure",
    "PeersError",
    "Reject",
    "ResultInvalid",
    "Retry",
    "Snooze",
    "Task",
    "TaskState",
    "current_batch",
    "current_task",
    "graph",
    "submit",
    "task",
]
_PLACES = ("peers.errors", "peers.context", "peers.types", "peers.client")


if not TYPE_CHECKING:  # for a type checker, any name would exist

    def __getattr__(name: str) -> object:
        if name in __all__:
            for place in _PLACES:
                module = importlib.import_module(place)
                if hasattr(module, name):
                    found = getattr(module, name)
                    globals()[name] = found
                    return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
