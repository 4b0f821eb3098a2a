"""Submitting tasks from Python: `@task`, `submit`, `graph`."""

from peers.client.graph import AsyncGraph, Graph, Node, graph
from peers.client.task import Task, submit, task
from peers.client.transport import relay

__all__ = ["AsyncGraph", "Graph", "Node", "Task", "graph", "relay", "submit", "task"]
