"""The SQL of the client's submissions; see `peers.client.statements`."""

# ruff: noqa: S608 - every part is a literal of this file

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from peers.client.records import SubmittedGraph
from peers.client.statements import Statement
from peers.types import TaskId

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
