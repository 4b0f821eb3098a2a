"""The queries about a run's failures: dead letters, retries, and storage that cannot be written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from peers.predict import kinds
from peers.predict.errors import RunStopped
from peers.predict.run.database import fetch
from peers.predict.run.queries import CHUNKS, ROWS

if TYPE_CHECKING:
    from peers.predict.run.database import Connection

# ------------------------------------------------------------------------------------- dead letters

_DEAD_TASKS: Final = """
    select d.task_id, d.error_type, d.error_message, d.args, d.exit_signal
    from peers.task t cross join lateral (
        select * from peers.dead_letter d where d.task_id = t.id
    ) d
    where t.graph_id = %(graph)s and t.state = 'dead' and t.kind = any (%(kinds)s)
    order by d.task_id limit %(limit)s
"""
# Rows that a stopped run has rejected are not dead for a reason of their own.
_DEAD_ROWS: Final = """
    with dead as (
        select t.id as task_id, f.error_type
        from peers.task t cross join lateral (
            select f.error_type from peers.failure f where f.task_id = t.id
            order by f.id desc limit 1
        ) f
        where t.graph_id = %(graph)s and t.state = 'dead' and t.kind = any (%(kinds)s)
    )
"""
_COUNT_DEAD: Final = "select count(*) filter (where error_type <> %(stopped)s) as dead from dead"
_DEAD_IDS: Final = """
    select task_id from dead where %(with_dead)s or error_type = %(stopped)s order by task_id
"""
_DEAD_LETTERS: Final = """
    select d.task_id, d.error_type, d.error_message, d.args, d.exit_signal
    from (select task_id from dead where error_type <> %(stopped)s
          order by task_id limit %(limit)s) l
    cross join lateral (select * from peers.dead_letter d where d.task_id = l.task_id) d
    order by d.task_id
"""
# A message starts with the name of its row, which ends with the input. Errors that differ only in
# quoted values and numbers have one reason.
_DEAD_REASONS: Final = """
    select count(*) as rows, min(task_id) as task_id, min(row) as row,
           (array_agg(reason order by task_id))[1] as reason
    from (
        select l.task_id, (d.args ->> 'row')::bigint as row, d.error_type,
               case when position(label in message) > 0
                    then substr(message, position(label in message) + length(label))
                    else message end as reason
        from (select task_id from dead where error_type <> %(stopped)s) l
        cross join lateral (select * from peers.dead_letter d where d.task_id = l.task_id) d
        cross join lateral (
            select coalesce(nullif(btrim(d.error_message), ''), d.error_type) as message,
                   ' of ' || (d.args ->> 'input') || ': ' as label
        ) m
    ) r
    group by error_type, regexp_replace(reason, '''[^'']*''|"[^"]*"|[0-9]+([.][0-9]+)?', '', 'g')
    order by rows desc, task_id limit %(limit)s
"""


def dead_tasks(connection: Connection, graph: int, limit: int) -> list[dict[str, Any]]:
    """Return the first dead letters of chunks and assembling tasks."""
    of = [*CHUNKS, kinds.ASSEMBLE]
    return fetch(connection, _DEAD_TASKS, graph=graph, kinds=of, limit=limit)


def count_dead_rows(connection: Connection, graph: int) -> int:
    """Count the rows that are dead for a reason of their own."""
    [found] = _dead_rows(connection, _COUNT_DEAD, graph)
    return int(found["dead"])


def dead_rows(connection: Connection, graph: int, limit: int) -> list[dict[str, Any]]:
    """Return the first dead letters of rows that are dead for a reason of their own."""
    return _dead_rows(connection, _DEAD_LETTERS, graph, limit=limit)


def dead_reasons(connection: Connection, graph: int, limit: int) -> list[dict[str, Any]]:
    """Return why rows are dead: how many for each reason, and the first of them."""
    return _dead_rows(connection, _DEAD_REASONS, graph, limit=limit)


def rows_to_retry(connection: Connection, graph: int, *, with_dead: bool) -> list[int]:
    """Return the tasks of rows that a stop has rejected, or of all dead rows."""
    found = _dead_rows(connection, _DEAD_IDS, graph, with_dead=with_dead)
    return [row["task_id"] for row in found]


# ----------------------------------------------------------------------------------------- failures

_LAST_FAILURE: Final = """
    select coalesce(nullif(f.error_message, ''), f.error_type) as why
    from peers.task t join peers.failure f on f.task_id = t.id
    where t.graph_id = %(graph)s and t.state in ('scheduled', 'ready', 'running')
      and f.attempt = t.attempt - case t.state when 'running' then 1 else 0 end
    order by f.id desc limit 1
"""
_COOLDOWN: Final = """
    select reason as why from peers.cooldown where name = %(name)s and ends_at > peers.now()
    union all
    select shut_because from peers.limit where name = %(name)s and shut_until > peers.now()
"""
# An attempt without trust in the model fails within milliseconds.
_TASKS_WITH_TRUST: Final = """
    select count(*) as tasks from peers.task
    where graph_id = %(graph)s and (
        (state = 'running' and started_at < peers.now() - interval '2 seconds')
        or (state = 'completed' and finished_at > peers.now() - interval '10 minutes')
    )
"""
_NEWEST_FAILURE: Final = "select coalesce(max(id), 0) as id from peers.failure"
# Counts from the last task that completed: while some tasks can complete, the run continues.
_LASTING_FAILURES: Final = """
    with failed as (
        select f.id, f.failed_at, f.error_message
        from peers.task t join peers.failure f on f.task_id = t.id
        where t.graph_id = %(graph)s and f.id > %(since)s and f.error_type = %(error_type)s
          and f.failed_at > coalesce(
              (select max(finished_at) from peers.task
               where graph_id = %(graph)s and state = 'completed' and kind <> %(assemble)s),
              '-infinity')
    )
    select count(*) as failures,
           coalesce(extract(epoch from peers.now() - min(failed_at)), 0)::float8 as seconds,
           (array_agg(error_message order by id desc))[1] as message
    from failed
"""


def last_failure(connection: Connection, graph: int, endpoint: str) -> str | None:
    """Return why the endpoint is in a cooldown, or why a task that will be retried failed last."""
    found = fetch(connection, _COOLDOWN, name=kinds.cooldown_name(endpoint))
    found = found or fetch(connection, _LAST_FAILURE, graph=graph)
    return found[0]["why"] if found else None


def newest_failure(connection: Connection) -> int:
    """Return the id of the newest failure of any task."""
    return int(fetch(connection, _NEWEST_FAILURE)[0]["id"])


def lasting_failures(
    connection: Connection, graph: int, error_type: str, *, since: int
) -> dict[str, Any]:
    """Count the run's failures of this type after this one; say for how long, and the message."""
    [found] = fetch(
        connection, _LASTING_FAILURES, graph=graph, since=since, error_type=error_type,
        assemble=kinds.ASSEMBLE,
    )  # fmt: skip
    return found


def is_trusted(connection: Connection, graph: int) -> bool:
    """Return whether a peer trusts the model: a task has run for a while, or completed lately."""
    return bool(fetch(connection, _TASKS_WITH_TRUST, graph=graph)[0]["tasks"])


def _dead_rows(
    connection: Connection, query: str, graph: int, **values: object
) -> list[dict[str, Any]]:
    return fetch(
        connection, _DEAD_ROWS + query, graph=graph, kinds=list(ROWS),
        stopped=RunStopped.__name__, **values,
    )  # fmt: skip
