"""Read a graph, or a task with its ancestors and descendants, from the database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    from peers.database.connection import Connection


class Task(NamedTuple):
    """A task of a picture."""

    id: int
    kind: str
    state: str


class Edge(NamedTuple):
    """The child waits for the parent."""

    parent: int
    child: int
    policy: str
    """What the parent's death or cancellation does to the child: hold, cancel or run."""
    waived: bool = False


class Tasks(NamedTuple):
    """Tasks, the edges between them, and which tasks belong to another graph."""

    tasks: list[Task]
    edges: list[Edge]
    outside: frozenset[int] = frozenset()


_OF_GRAPH: Final = "select t.id, t.kind, t.state::text from peers.task t where t.graph_id = %s"
_OF_IDS: Final = "select t.id, t.kind, t.state::text from peers.task t where t.id = any (%s)"
_EDGES_OF_GRAPH: Final = """
    select d.parent_id, d.child_id, d.on_parent_failure::text, d.waived
    from peers.task t join peers.dependency d on d.child_id = t.id
    where t.graph_id = %(graph)s
    union all
    select d.parent_id, d.child_id, d.on_parent_failure::text, d.waived
    from peers.task t
    join peers.dependency d on d.parent_id = t.id
    join peers.task c on c.id = d.child_id
    where t.graph_id = %(graph)s and c.graph_id is distinct from %(graph)s
"""
_AROUND: Final = """
    with recursive
    parent (id) as (
        select %(task)s::bigint
        union select d.parent_id from parent p join peers.dependency d on d.child_id = p.id
    ),
    child (id) as (
        select %(task)s::bigint
        union select d.child_id from child c join peers.dependency d on d.parent_id = c.id
    )
    select id from parent union select id from child
"""
_EDGES_BETWEEN: Final = """
    select d.parent_id, d.child_id, d.on_parent_failure::text, d.waived
    from unnest(%(ids)s::bigint[]) i(id) join peers.dependency d on d.child_id = i.id
    where d.parent_id = any (%(ids)s::bigint[])
"""


def name_of_graph(connection: Connection, graph: int) -> str | None:
    """Return the name of a graph; None: there is no such graph."""
    for row in _rows(connection, "select g.name from peers.graph g where g.id = %s", (graph,)):
        return str(row[0])
    return None


def of_graph(connection: Connection, graph: int) -> Tasks:
    """Return the tasks of a graph, and those of other graphs that are next to them."""
    with _snapshot(connection):
        tasks = [Task._make(row) for row in _rows(connection, _OF_GRAPH, (graph,))]
        edges = [Edge._make(row) for row in _rows(connection, _EDGES_OF_GRAPH, {"graph": graph})]
        known = {task.id for task in tasks}
        others = {end for edge in edges for end in edge[:2]} - known
        outside = [Task._make(row) for row in _rows(connection, _OF_IDS, (sorted(others),))]
    return _complete(tasks + outside, edges, frozenset(task.id for task in outside))


def around(connection: Connection, task: int) -> Tasks:
    """Return a task, all that it waits for, and all that wait for it; empty if there is none."""
    with _snapshot(connection):
        ids = [row[0] for row in _rows(connection, _AROUND, {"task": task})]
        tasks = [Task._make(row) for row in _rows(connection, _OF_IDS, (ids,))]
        edges = [Edge._make(row) for row in _rows(connection, _EDGES_BETWEEN, {"ids": ids})]
    return _complete(tasks, edges, frozenset())


def _complete(tasks: list[Task], edges: list[Edge], outside: frozenset[int]) -> Tasks:
    """Return the tasks in the order of their ids, without edges whose parent was pruned."""
    known = {task.id for task in tasks}
    kept = [edge for edge in edges if edge.parent in known and edge.child in known]
    return Tasks(sorted(tasks), sorted(kept), outside)


def _snapshot(connection: Connection) -> Any:
    """Return a transaction in which all statements see the same tasks."""
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection.transaction()


def _rows(
    connection: Connection, query: LiteralString, arguments: Any
) -> Iterable[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(query, arguments)
        return cursor.fetchall()
