"""Peers: a leaderless task scheduler that lives in Postgres."""

# Names are imported at their first use: the command line must be able to handle Ctrl-C before it
# loads anything, and a worker needs only some of them.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.client.async_client import AsyncClient
    from peers.client.client import Client
    from peers.client.functions import (
        cancel,
        cancel_async,
        cancel_graph,
        cancel_graph_async,
        cancel_graph_in,
        cancel_in,
        change,
        change_async,
        change_in,
        discard,
        discard_async,
        discard_in,
        explain,
        explain_async,
        explain_in,
        find,
        find_async,
        find_graphs,
        find_graphs_async,
        find_graphs_in,
        find_in,
        get,
        get_async,
        get_in,
        graph_status,
        graph_status_async,
        graph_status_in,
        pause,
        pause_async,
        pause_graph,
        pause_graph_async,
        pause_graph_in,
        pause_in,
        resume,
        resume_async,
        resume_graph,
        resume_graph_async,
        resume_graph_in,
        resume_in,
        retry,
        retry_async,
        retry_graph,
        retry_graph_async,
        retry_graph_in,
        retry_in,
        submit,
        submit_async,
        submit_in,
        submit_many,
        submit_many_async,
        submit_many_in,
    )
    from peers.client.graph import (
        AsyncGraph,
        Graph,
        graph,
        graph_async,
    )
    from peers.client.node import Node
    from peers.client.records import (
        GraphStatus,
        TaskRecord,
    )
    from peers.client.results import (
        result,
        result_async,
    )
    from peers.client.task import (
        BatchTask,
        Task,
        task,
    )
    from peers.context import (
        CurrentTask,
        Parent,
        current_batch,
        current_task,
    )
    from peers.errors import (
        ArgsInvalid,
        BadGraph,
        BadTask,
        ChildStarted,
        ConfigError,
        CycleError,
        DatabaseUnreachable,
        Failure,
        GraphNotFound,
        NotDead,
        NotFound,
        PeersError,
        Reject,
        ResultInvalid,
        Retry,
        Snooze,
        TaskCancelled,
        TaskFailed,
        TaskNotFound,
    )
    from peers.types import (
        OnDuplicate,
        ParentFailure,
        TaskId,
        TaskState,
        UniqueWhile,
    )

__all__ = [
    "ArgsInvalid",
    "AsyncClient",
    "AsyncGraph",
    "BadGraph",
    "BadTask",
    "BatchTask",
    "ChildStarted",
    "Client",
    "ConfigError",
    "CurrentTask",
    "CycleError",
    "DatabaseUnreachable",
    "Failure",
    "Graph",
    "GraphNotFound",
    "GraphStatus",
    "Node",
    "NotDead",
    "NotFound",
    "OnDuplicate",
    "Parent",
    "ParentFailure",
    "PeersError",
    "Reject",
    "ResultInvalid",
    "Retry",
    "Snooze",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TaskId",
    "TaskNotFound",
    "TaskRecord",
    "TaskState",
    "UniqueWhile",
    "cancel",
    "cancel_async",
    "cancel_graph",
    "cancel_graph_async",
    "cancel_graph_in",
    "cancel_in",
    "change",
    "change_async",
    "change_in",
    "current_batch",
    "current_task",
    "discard",
    "discard_async",
    "discard_in",
    "explain",
    "explain_async",
    "explain_in",
    "find",
    "find_async",
    "find_graphs",
    "find_graphs_async",
    "find_graphs_in",
    "find_in",
    "get",
    "get_async",
    "get_in",
    "graph",
    "graph_async",
    "graph_status",
    "graph_status_async",
    "graph_status_in",
    "pause",
    "pause_async",
    "pause_graph",
    "pause_graph_async",
    "pause_graph_in",
    "pause_in",
    "result",
    "result_async",
    "resume",
    "resume_async",
    "resume_graph",
    "resume_graph_async",
    "resume_graph_in",
    "resume_in",
    "retry",
    "retry_async",
    "retry_graph",
    "retry_graph_async",
    "retry_graph_in",
    "retry_in",
    "submit",
    "submit_async",
    "submit_in",
    "submit_many",
    "submit_many_async",
    "submit_many_in",
    "task",
]
_PLACES = (
    "peers.errors",
    "peers.context",
    "peers.types",
    "peers.client.task",
    "peers.client.graph",
    "peers.client.functions",
    "peers.client.results",
    "peers.client.records",
    "peers.client.node",
    "peers.client.client",
    "peers.client.async_client",
)


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
