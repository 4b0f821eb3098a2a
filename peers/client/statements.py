"""The SQL of the client: each statement takes one JSON document and returns one, as text.

JSON on both sides works in every place in the same way: in a psycopg, SQLAlchemy or Django
connection, whatever types and row classes an application has registered there, and from a handler
through its peer. The SQL contains no percent sign, because `%(document)s` is filled in by drivers.
"""

# ruff: noqa: S608 - every part is a literal of this file

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, LiteralString, TypeVar

from peers.client.records import (
    Outcome,
    TaskLog,
    TaskRecord,
    task_not_found,
)
from peers.errors import TaskNotFound
from peers.types import TaskState

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Statement(Generic[T]):
    """SQL with the parameter `:document`, and a function that reads the JSON that it returns."""

    name: str
    sql: LiteralString
    read: Callable[[Any], T]
    is_read_only: bool = False


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A statement with its document."""

    statement: Statement[T]
    document: Any


_TASK: Final = """
    to_jsonb(t) - 'token' - 'created_xid' || jsonb_build_object(
        'timeout', extract(epoch from t.timeout),
        'failure', (select to_jsonb(f) from peers.failure f
                    where f.task_id = t.id order by f.id desc limit 1))
"""

_FILTERS: Final = """
    t.id < coalesce((d ->> 'before')::bigint, 9223372036854775807)
    and (d ->> 'kind' is null or t.kind = d ->> 'kind')
    and (d ->> 'queue' is null or t.queue = d ->> 'queue')
    and (d ->> 'state' is null or t.state = (d ->> 'state')::peers.task_state)
    and (d -> 'metadata' is null or t.metadata @> (d -> 'metadata'))
"""
_OF_KIND: Final = """
    where (d ->> 'kind' is null or n.kind = d ->> 'kind')
      and (d ->> 'queue' is null or n.queue = d ->> 'queue')"""
# No index mentions a state (each claim would have to maintain it). These tables hold the tasks in
# these states, and little else. Claims drop the rows that ready has for a paused graph's tasks.
_IN_STATE: Final[dict[str, LiteralString]] = {
    "blocked": "select n.task_id from peers.blocked n",
    "scheduled": "select distinct n.task_id from peers.scheduled n",
    "ready": "select n.task_id from peers.ready n"
    + _OF_KIND
    + " union select n.task_id from peers.ready_limited n"
    + _OF_KIND
    + """
        union
        select newest.id from peers.graph g
        cross join lateral (
            select t.id from peers.task t where t.graph_id = g.id and"""
    + _FILTERS
    + """order by t.id desc limit (d ->> 'limit')::bigint) as newest
        where g.paused_at is not null""",
    "running": "select distinct unnest(n.task_ids) from peers.lease n",
    "dead": "select n.task_id from peers.dead n" + _OF_KIND,
}
_IN_GRAPH: Final = " and t.graph_id = (d ->> 'graph')::bigint"


def _task(row: Any) -> TaskRecord:
    if "missing" in row:
        raise TaskNotFound(
            f"there is no task {row['missing']}", "It never existed, or it was pruned."
        )
    return TaskRecord.from_json(row)


def _tasks(rows: Any) -> list[TaskRecord]:
    return [TaskRecord.from_json(row) for row in rows]


def _outcomes(rows: Any) -> list[Outcome]:
    return [Outcome.from_json(row) for row in rows]


def _find(state: str | None, *, in_graph: bool) -> Statement[list[TaskRecord]]:
    name = " ".join(["find", *filter(None, [state, "graph" if in_graph else None])])
    if state is None or in_graph:
        # of ready tasks there may be far more than the graph has tasks
        inside = f"and t.id in ({_IN_STATE[state]})" if state not in (None, "ready") else ""
        graph = _IN_GRAPH if in_graph else ""
        sql = _newest_first("t.id", f"peers.task t where {_FILTERS} {graph} {inside}")
    else:
        sql = _newest_first("s.id", _SORTED.format(ids=_IN_STATE[state]) + _FILTERS)
    return Statement(name, sql, _tasks, is_read_only=True)


# The ids are sorted first, so that no more tasks are read than `limit` needs, and side by side.
# Otherwise the planner takes a million ready tasks for 200, and reads them all at random places.
_SORTED: Final = """
    lateral (select i.id from ({ids}) i(id) order by i.id desc offset 0) as s
    cross join lateral (select t.* from peers.task t where t.id = s.id offset 0) as t where """


def _newest_first(id: LiteralString, tasks: LiteralString) -> LiteralString:
    """Return the statement that finds the newest of these tasks."""
    # json_agg, because an array in jsonb has at most 256 MiB; a text may have 1 GiB
    return f"""
        select coalesce(json_agg(found.task order by found.id desc), '[]')::text from (
            select {id}, {_TASK} as task
            from (select cast(:document as jsonb)) as request(d), {tasks}
            order by {id} desc limit (
                select (d ->> 'limit')::bigint from (select cast(:document as jsonb)) as bound(d))
        ) as found"""


FINDS: Final = {
    (state, in_graph): _find(state, in_graph=in_graph)
    for state in (None, *_IN_STATE)
    for in_graph in (False, True)
}
"""The statements that find tasks, by their state and whether they belong to one graph."""


def find_statement(state: TaskState | None, *, in_graph: bool) -> Statement[list[TaskRecord]]:
    """Return the statement that finds tasks in this state fastest."""
    return FINDS[state.value if state is not None and state.value in _IN_STATE else None, in_graph]


GET: Final = Statement(
    "get",
    "select coalesce((select "
    + _TASK
    + """ from peers.task t where t.id = cast(cast(:document as jsonb) ->> 'id' as bigint)),
    jsonb_build_object('missing', cast(:document as jsonb) -> 'id'))::text
    """,
    _task,
    is_read_only=True,
)


def _log(row: Any) -> TaskLog | None:
    if row is None:
        return None
    if "missing" in row:
        raise task_not_found(row["missing"])
    return TaskLog.from_json(row)


LOG: Final = Statement(
    "log",
    """
    select case
        when exists (select from peers.task t where t.id = (d ->> 'id')::bigint) then coalesce((
            select to_jsonb(l) from peers.task_log l
            where l.task_id = (d ->> 'id')::bigint
              and (d ->> 'attempt' is null or l.attempt = (d ->> 'attempt')::integer)
            order by l.stored_at desc limit 1), 'null')
        else jsonb_build_object('missing', d -> 'id')
    end::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _log,
    is_read_only=True,
)

OUTCOMES: Final = Statement(
    "outcomes",
    """
    select coalesce(json_agg(json_build_object(
        'id', t.id, 'kind', t.kind, 'state', t.state,
        'result', case when t.state = 'completed' then t.result end,
        'failure', case when t.state in ('dead', 'cancelled') then (
            select to_jsonb(f) from peers.failure f
            where f.task_id = t.id order by f.id desc limit 1) end)), '[]')::text
    from peers.task t
    where t.id = any (array(
        select jsonb_array_elements_text(cast(:document as jsonb) -> 'ids')::bigint))
    """,
    _outcomes,
    is_read_only=True,
)

EXPLAIN: Final = Statement(
    "explain",
    "select to_json(peers.explain((cast(:document as jsonb) ->> 'id')::bigint))::text",
    str,
    is_read_only=True,
)


def _nothing(_: Any) -> None:
    return None


CANCEL: Final = Statement(
    "cancel",
    "select to_json(peers.cancel((cast(:document as jsonb) ->> 'id')::bigint))::text",
    TaskState,
)
RETRY: Final = Statement(
    "retry",
    """
    select to_json(count(peers.retry(i.id::bigint, d -> 'args')))::text
    from (select cast(:document as jsonb)) as request(d),
         jsonb_array_elements_text(d -> 'ids') as i(id)
    """,
    int,
)
DISCARD: Final = Statement(
    "discard",
    """
    select to_json(count(peers.discard(i.id::bigint)))::text
    from jsonb_array_elements_text(cast(:document as jsonb) -> 'ids') as i(id)
    """,
    int,
)
CHANGE: Final = Statement(
    "change",
    """
    select to_json(peers.change((d ->> 'id')::bigint, (d ->> 'priority')::integer,
        coalesce((d ->> 'scheduled_at')::timestamptz, peers.now() + (d ->> 'delay')::interval),
        d -> 'args', (d ->> 'max_attempts')::integer, (d ->> 'timeout')::interval)::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
PAUSE: Final = Statement(
    "pause",
    """
    select to_json(peers.pause(d ->> 'queue', d ->> 'reason')::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
RESUME: Final = Statement(
    "resume",
    """
    select to_json(peers.resume(d ->> 'queue', d ->> 'reason')::text)::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    _nothing,
)
