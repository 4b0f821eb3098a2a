"""The SQL of the client: each statement takes one JSON document and returns one, as text.

JSON on both sides works in every place in the same way: in a psycopg, SQLAlchemy or Django
connection, whatever types and row classes an application has registered there, and from a handler
through its peer. The SQL contains no percent sign, because `%(document)s` is filled in by drivers.
"""

# ruff: noqa: S608 - every part is a literal of this file

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, LiteralString, TypeVar

from peers.client.records import (
    GraphStatus,
    Outcome,
    SubmittedGraph,
    TaskLog,
    TaskRecord,
    task_not_found,
)
from peers.errors import GraphNotFound, TaskNotFound
from peers.types import TaskId, TaskState

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


# ------------------------------------------------------------------------------------ submitting

_SUBMIT_ARGUMENTS: Final = """
        kind => d ->> 'kind', args => d -> 'args', queue => d ->> 'queue',
        priority => (d ->> 'priority')::integer,
        scheduled_at => coalesce((d ->> 'scheduled_at')::timestamptz,
                                 peers.now() + (d ->> 'delay')::interval),
        max_attempts => (d ->> 'max_attempts')::integer, timeout => (d ->> 'timeout')::interval,
        depends_on => array(select jsonb_array_elements_text(d -> 'depends_on')::bigint),
        on_parent_failure => (d ->> 'on_parent_failure')::peers.parent_failure_policy,
        idempotency_key => d ->> 'idempotency_key', metadata => d -> 'metadata',
        graph_id => (d ->> 'graph_id')::bigint"""

SUBMIT: Final = Statement(
    "submit",
    "select to_json(peers.submit("
    + _SUBMIT_ARGUMENTS
    + """))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    TaskId,
)


def _task_id(row: Any) -> TaskId:
    return TaskId(row["id"], is_new=row["is_new"], replaced=row["replaced"])


SUBMIT_UNIQUE: Final = Statement(
    "submit_unique",
    """
    select to_json(s)::text
    from (select cast(:document as jsonb)) as request(d)
    cross join lateral peers.submit_unique("""
    + _SUBMIT_ARGUMENTS
    + """,
        unique_key => d ->> 'unique_key', unique_while => d ->> 'unique_while',
        on_duplicate => d ->> 'on_duplicate', wait => (d ->> 'wait')::interval,
        max_wait => (d ->> 'max_wait')::interval) as s
    """,
    _task_id,
)


def submit_statement(document: Mapping[str, Any]) -> Statement[TaskId]:
    """Return the statement that submits a document. Only a key can lead to an older task."""
    has_key = "unique_key" in document or "idempotency_key" in document
    return SUBMIT_UNIQUE if has_key else SUBMIT


def _new_ids(ids: Any) -> list[TaskId]:
    return [TaskId(each) for each in ids]


def _task_ids(rows: Any) -> list[TaskId]:
    return [_task_id(row) for row in rows]


# `args` can be long, and `->` on json reads the whole document: the options are read all at once.
# For each task this takes a tenth more time in the database than COPY, which returns no ids and
# does not work in all targets.
_MANY_ARGUMENTS: Final = """
        kind => d.kind, args => d.args, queue => d.queue, priority => d.priority,
        scheduled_at => coalesce(d.scheduled_at, peers.now() + d.delay),
        max_attempts => d.max_attempts, timeout => d.timeout,
        depends_on => array(select json_array_elements_text(d.depends_on)::bigint),
        on_parent_failure => d.on_parent_failure, metadata => d.metadata, graph_id => d.graph_id"""
_MANY_COLUMNS: Final = """
        kind text, args json, queue text, priority integer, scheduled_at timestamptz,
        delay interval, max_attempts integer, timeout interval, metadata jsonb, graph_id bigint,
        depends_on json, on_parent_failure peers.parent_failure_policy"""
SUBMIT_MANY: Final = Statement(
    "submit_many",
    "select to_json(peers.submit_many("
    + _MANY_ARGUMENTS
    + """))::text
    from json_to_record(cast(:document as json)) as d("""
    + _MANY_COLUMNS
    + ")",
    _new_ids,
)

SUBMIT_MANY_UNIQUE: Final = Statement(
    "submit_many_unique",
    """
    select coalesce(json_agg(s), '[]')::text
    from json_to_record(cast(:document as json)) as d("""
    + _MANY_COLUMNS
    + """, unique_keys json,
        unique_while text, on_duplicate text, wait interval, max_wait interval)
    cross join lateral peers.submit_many_unique("""
    + _MANY_ARGUMENTS
    + """,
        unique_keys => array(select json_array_elements_text(d.unique_keys)),
        unique_while => d.unique_while, on_duplicate => d.on_duplicate, wait => d.wait,
        max_wait => d.max_wait) as s
    """,
    _task_ids,
)

SUBMIT_GRAPH: Final = Statement(
    "submit_graph",
    """
    select json_build_object(
        'graph', min(g.graph_id), 'tasks', json_object_agg(g.name, g.task_id),
        'known', json_agg(g.name) filter (where not g.is_new))::text
    from (select cast(:document as jsonb)) as request(d)
    cross join lateral peers.submit_graph(
        graph => (select jsonb_agg(n - 'delay' || jsonb_build_object('scheduled_at', coalesce(
                      n -> 'scheduled_at', to_jsonb(peers.now() + (n ->> 'delay')::interval))))
                  from jsonb_array_elements(d -> 'nodes') as node(n)),
        name => d ->> 'name', idempotency_key => d ->> 'idempotency_key',
        metadata => d -> 'metadata') g
    """,
    SubmittedGraph.from_json,
)

# ----------------------------------------------------------------------------------------- reading

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


_FINDS: Final = {
    (state, in_graph): _find(state, in_graph=in_graph)
    for state in (None, *_IN_STATE)
    for in_graph in (False, True)
}


def find_statement(state: TaskState | None, *, in_graph: bool) -> Statement[list[TaskRecord]]:
    """Return the statement that finds tasks in this state fastest."""
    return _FINDS[state.value if state is not None and state.value in _IN_STATE else None, in_graph]


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


def _graph_status(row: Any) -> GraphStatus:
    if "missing" in row:
        raise GraphNotFound(
            f"there is no graph {row['missing']}", "It never existed, or it was pruned."
        )
    return GraphStatus.from_json(row)


GRAPH_STATUS: Final = Statement(
    "graph_status",
    """
    select coalesce(
        (select to_jsonb(s) from peers.graph_status s
         where s.graph_id = (cast(:document as jsonb) ->> 'graph')::bigint),
        jsonb_build_object('missing', cast(:document as jsonb) -> 'graph'))::text
    """,
    _graph_status,
    is_read_only=True,
)


def _graph_statuses(rows: Any) -> list[GraphStatus]:
    return [GraphStatus.from_json(row) for row in rows]


FIND_GRAPHS: Final = Statement(
    "find_graphs",
    """
    select coalesce(jsonb_agg(to_jsonb(s) order by found.id desc), '[]')::text
    from (
        select g.id
        from (select cast(:document as jsonb)) as request(d), peers.graph g
        where g.id < coalesce((d ->> 'before')::bigint, 9223372036854775807)
          and (d ->> 'name' is null or g.name = d ->> 'name')
          and (d ->> 'paused' is null or (g.paused_at is not null) = (d ->> 'paused')::boolean)
        order by g.id desc limit (select (d ->> 'limit')::bigint from
            (select cast(:document as jsonb)) as bound(d))
    ) as found
    cross join lateral (select * from peers.graph_status v where v.graph_id = found.id) as s
    """,
    _graph_statuses,
    is_read_only=True,
)

# ---------------------------------------------------------------------------------------- changing


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
CANCEL_GRAPH: Final = Statement(
    "cancel_graph",
    """
    select to_json(peers.cancel_graph(
        (d ->> 'graph')::bigint, (d ->> 'dry_run')::boolean, d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    int,
)
RETRY_GRAPH: Final = Statement(
    "retry_graph",
    """
    select to_json(peers.retry_graph(
        (d ->> 'graph')::bigint, (d ->> 'dry_run')::boolean, d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    int,
)
PAUSE_GRAPH: Final = Statement(
    "pause_graph",
    """
    select to_json(peers.pause_graph((d ->> 'graph')::bigint, d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    int,
)
RESUME_GRAPH: Final = Statement(
    "resume_graph",
    """
    select to_json(peers.resume_graph((d ->> 'graph')::bigint, d ->> 'reason'))::text
    from (select cast(:document as jsonb)) as request(d)
    """,
    int,
)

_ALL: Final[list[Statement[Any]]] = [
    SUBMIT, SUBMIT_UNIQUE, SUBMIT_MANY, SUBMIT_MANY_UNIQUE, SUBMIT_GRAPH,
    *_FINDS.values(), GET, OUTCOMES, EXPLAIN, GRAPH_STATUS, FIND_GRAPHS,
    CANCEL, RETRY, DISCARD, CHANGE, PAUSE, RESUME,
    CANCEL_GRAPH, RETRY_GRAPH, PAUSE_GRAPH, RESUME_GRAPH,
]  # fmt: skip
STATEMENTS: Final = {statement.name: statement for statement in _ALL}
"""All of them by name: a handler sends the name to its peer."""
