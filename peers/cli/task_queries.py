"""The queries that list tasks.

No index mentions a state or a kind, because peers.task is large and changes often. Tasks that have
not ended, and dead ones, have rows in narrow tables. Of the others only the newest are looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from peers.cli.rows import rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import LiteralString

    from peers.cli.rows import Row
    from peers.database.connection import Connection

NEWEST_READ: Final = 100_000
"""Reading so many tasks takes 0.1 s."""

KEYS: Final = ("kind", "queue", "state", "graph", "since", "until")

_SOURCES: Final[dict[str, LiteralString]] = {
    "graph": "select t.id from peers.task t where t.graph_id = %(graph)s",
    "ready": """
        select r.task_id as id from peers.ready r
        where (%(kind)s::text is null or r.kind = %(kind)s)
          and (%(queue)s::text is null or r.queue = %(queue)s)
        union
        select l.task_id from peers.ready_limited l
        where (%(kind)s::text is null or l.kind = %(kind)s)
          and (%(queue)s::text is null or l.queue = %(queue)s)
        union
        select t.id from peers.graph g join peers.task t on t.graph_id = g.id
        where g.paused_at is not null""",
    "scheduled": "select s.task_id as id from peers.scheduled s",
    "blocked": """
        select b.task_id as id from peers.blocked b
        where %(queue)s::text is null or b.queue = %(queue)s""",
    "running": """
        select i.task_id as id
        from peers.lease l cross join lateral unnest(l.task_ids) i(task_id)""",
    "dead": """
        select d.task_id as id from peers.dead d
        where (%(kind)s::text is null or d.kind = %(kind)s)
          and (%(queue)s::text is null or d.queue = %(queue)s)""",
    "newest": "select t.id from peers.task t order by t.id desc limit %(newest)s",
}
"""Where the ids come from. Rows of the narrow tables may be stale."""

UNFINISHED: Final = ("ready", "scheduled", "blocked", "running")

_MATCHES: Final = """
    (%(state)s::text is null or t.state = %(state)s::peers.task_state)
    and (%(kind)s::text is null or t.kind = %(kind)s)
    and (%(queue)s::text is null or t.queue = %(queue)s)
    and (%(graph)s::bigint is null or t.graph_id = %(graph)s)
    and (%(since)s::timestamptz is null or t.created_at >= %(since)s)
    and (%(until)s::timestamptz is null or t.created_at < %(until)s)
"""


def source_of(wanted: Mapping[str, Any]) -> str:
    """Return where the tasks that match are found."""
    if "graph" in wanted:
        return "graph"
    state = wanted.get("state")
    return state if state in _SOURCES else "newest"


def tasks(connection: Connection, wanted: Mapping[str, Any], limit: int) -> list[Row]:
    """Return the newest tasks that match."""
    query: LiteralString = f"""
        select t.id as task_id, t.state::text, t.kind, t.queue, t.priority, t.attempt,
               t.max_attempts, t.graph_id, t.created_at,
               peers.now() - t.created_at as created_ago_seconds, t.scheduled_at, t.started_at,
               t.finished_at, t.args
        -- sorting the ids first, so that only the newest tasks are read
        from (select id from ({_SOURCES[source_of(wanted)]}) i order by id desc offset 0) s
        cross join lateral (select t.* from peers.task t where t.id = s.id offset 0) t
        where {_MATCHES} order by s.id desc limit %(limit)s"""  # noqa: S608
    values = {key: wanted.get(key) for key in KEYS}
    return rows(connection, query, **values, limit=limit, newest=NEWEST_READ)


def unfinished_ids(connection: Connection, wanted: Mapping[str, Any]) -> list[int]:
    """Return the ids of the waiting and running tasks that match, in ascending order."""
    if "graph" in wanted:
        states = ["graph"]
    else:
        states = [wanted["state"]] if "state" in wanted else list(UNFINISHED)
    source = " union ".join(
        f"select id from ({_SOURCES[state]}) {state}"  # noqa: S608
        for state in states
    )
    query: LiteralString = f"""
        with source as ({source})
        select t.id from source s join peers.task t on t.id = s.id
        where t.state in ('ready', 'scheduled', 'blocked', 'running') and {_MATCHES}
          and not exists (select from peers.cancel_request r
                          where r.token = t.token and r.task_id = t.id and t.state = 'running')
        order by t.id"""  # noqa: S608
    values = {key: wanted.get(key) for key in KEYS}
    return [row["id"] for row in rows(connection, query, **values)]


def stopping(connection: Connection, ids: list[int]) -> int:
    """Return how many of these tasks run although their peer was asked to stop them."""
    [row] = rows(
        connection,
        """
        select count(*) as tasks
        from peers.cancel_request r join peers.task t on t.id = r.task_id and t.token = r.token
        where r.task_id = any (%(ids)s) and t.state = 'running'""",
        ids=ids,
    )
    return int(row["tasks"])
