"""Compare the database with the ledger: count what was lost, ran twice, or ran too early."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from peers.demo.ledger import Entry
    from peers.demo.submit import Submitted

# lost: tasks that did not end, and files that the report misses. reclaimed: leases taken back from
# a peer that was gone. duplicates: outcomes or runs that count twice, and outcomes without a run.
# early: children that started before a parent had ended, by the clock or by the order of the
# ledger. repeated: runs to the end whose outcome was lost with their peer, so the task ran again.
_FIGURES: Final = """
    with task as materialized (
        select id, kind, state, token, result, created_at, started_at, finished_at
        from peers.task where graph_id = %(graph_id)s
    ), failure as materialized (
        select f.task_id, f.token, f.error_type from peers.failure f join task t on t.id = f.task_id
    ), run as materialized (
        select * from unnest(%(ids)s::bigint[], %(tokens)s::uuid[]) with ordinality
            r(task_id, token, position)
    ), outcome as (
        select id, token from task where state = 'completed'
        union all select task_id, token from failure
    ), first_run as (
        select task_id, min(position) as position from run group by task_id
    )
    select
        count(*) as tasks,
        count(*) filter (where state = 'completed') as completed,
        count(*) filter (where state = 'dead') as dead,
        count(*) filter (where state = 'cancelled') as cancelled,
        %(tasks)s - count(*) filter (where finished_at is not null)
            + abs(count(*) filter (where state = 'completed' and kind = 'demo.index_file')
                  - coalesce((select (result ->> 'files')::bigint from task
                              where kind = 'demo.report'), 0)) as lost,
        (select count(*) from failure where error_type = 'lost') as reclaimed,
        (select count(*) - count(distinct (id, token)) from outcome)
            + (select count(*) - count(distinct (task_id, token)) from run)
            + count(*) filter (
                where state = 'completed' and (id, token) not in (select task_id, token from run)
            ) as duplicates,
        (select count(*) from peers.dependency d
            join task p on p.id = d.parent_id join task c on c.id = d.child_id
            left join run on (run.task_id, run.token) = (p.id, p.token)
            left join first_run on first_run.task_id = c.id
         where c.started_at < coalesce(p.finished_at, 'infinity')
            or first_run.position < run.position) as early,
        (select count(*) - count(distinct task_id) from run) as repeated,
        round(extract(epoch from max(finished_at) - min(created_at)), 2)::float8 as seconds
    from task
"""


def verify(
    connection: psycopg.Connection[Any], submitted: Submitted, ledger: Sequence[Entry]
) -> dict[str, Any]:
    """Return the figures of a run that has ended, by name. Times are in seconds."""
    parameters = {
        "graph_id": submitted.graph_id,
        "tasks": submitted.tasks,
        "ids": [entry.task_id for entry in ledger],
        "tokens": [entry.token for entry in ledger],
    }
    with connection.cursor(row_factory=dict_row) as cursor:
        [figures] = cursor.execute(_FIGURES, parameters).fetchall()
    return figures
