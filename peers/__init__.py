"""Peers: a leaderless task scheduler that lives in Postgres."""

from peers.client import AsyncGraph, Graph, Node, Task, graph, submit, task
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
)
from peers.model import ParentFailure, TaskState

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
    "Task",
    "TaskState",
    "current_batch",
    "current_task",
    "graph",
    "submit",
    "task",
]
