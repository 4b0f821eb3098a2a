"""The operations on graphs. Each function checks its arguments and returns a request.

`peers.client.forms` makes the functions that users call of them, as in `peers.client.operations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peers.client import graph_statements as statements
from peers.client.checks import id_of, reason_of, switch_of
from peers.client.filters import filters_of
from peers.client.statements import Request

if TYPE_CHECKING:
    from peers.client.records import GraphStatus


def graph_status(graph: int) -> Request[GraphStatus]:
    """Return how far a graph is. Raises GraphNotFound."""
    return Request(statements.GRAPH_STATUS, _graph(graph, None))


def find_graphs(
    *,
    name: str | None = None,
    paused: bool | None = None,
    limit: int = 100,
    before: int | None = None,
) -> Request[list[GraphStatus]]:
    """Return how far the graphs are that match all of these filters, the newest first.

    limit: 1 to 1000. before: only graphs with a smaller id, for the next page. Raises BadArgument.
    """
    filters = filters_of(limit, before=(before, "graph"), name=name, paused=paused)
    return Request(statements.FIND_GRAPHS, filters)


def cancel_graph(graph: int, *, dry_run: bool = False, reason: str | None = None) -> Request[int]:
    """Cancel the unfinished tasks of a graph, dead ones included, and return how many.

    dry_run: only count them. reason: is recorded in peers.action. Raises GraphNotFound.
    """
    return Request(statements.CANCEL_GRAPH, _graph_with_dry_run(graph, dry_run, reason))


def pause_graph(graph: int, *, reason: str | None = None) -> Request[int]:
    """Stop claims of a graph's tasks, and return how many of them are ready now.

    Tasks that are blocked or scheduled are paused too, but not counted. reason: is recorded in
    peers.action. Raises GraphNotFound.
    """
    return Request(statements.PAUSE_GRAPH, _graph(graph, reason))


def resume_graph(graph: int, *, reason: str | None = None) -> Request[int]:
    """Allow claims of a paused graph's tasks again, and return how many of them are ready now.

    Tasks that are blocked or scheduled are not counted. reason: is recorded in peers.action. Raises
    GraphNotFound.
    """
    return Request(statements.RESUME_GRAPH, _graph(graph, reason))


def retry_graph(graph: int, *, dry_run: bool = False, reason: str | None = None) -> Request[int]:
    """Run all dead tasks of a graph again, and return how many.

    dry_run: only count them. reason: is recorded in peers.action. Raises GraphNotFound.
    """
    return Request(statements.RETRY_GRAPH, _graph_with_dry_run(graph, dry_run, reason))


def _graph(graph: int, reason: object) -> dict[str, Any]:
    return {"graph": id_of(graph, "graph", name="graph"), **reason_of(reason)}


def _graph_with_dry_run(graph: int, dry_run: object, reason: object) -> dict[str, Any]:
    return {**_graph(graph, reason), "dry_run": switch_of("dry_run", dry_run)}
