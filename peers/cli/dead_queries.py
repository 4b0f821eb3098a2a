"""The queries about dead letters.

`MATCHES` finds the same dead letters as peers.retry_dead and peers.discard_dead do.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from peers.cli.rows import rows

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import LiteralString

    from peers.cli.rows import Row
    from peers.database.connection import Connection

NEWEST_GROUPED: Final = 500
"""How many dead letters `newest_causes` groups: finding a frame takes 0.1 ms or more."""

_KEYS: Final = ("kind", "queue", "since", "until", "graph", "error", "error_type", "frame", "ids")

MATCHES: Final = """
    (%(kind)s::text is null or d.kind = %(kind)s)
    and (%(queue)s::text is null or d.queue = %(queue)s)
    and (%(since)s::timestamptz is null or d.died_at >= %(since)s)
    and (%(until)s::timestamptz is null or d.died_at < %(until)s)
    and (%(ids)s::bigint[] is null or d.task_id = any (%(ids)s))
    and (%(graph)s::bigint is null or d.task_id in (
         select t.id from peers.task t where t.graph_id = %(graph)s and t.state = 'dead'))
    and (%(any_cause)s or exists (
         select from (
             select x.error_type, x.error_message, x.traceback from peers.failure x
             where x.task_id = d.task_id order by x.id desc limit 1
         ) f
         where (%(error_type)s::text is null or f.error_type = %(error_type)s)
           and (%(error)s::text is null
                or strpos(lower(f.error_type || ': ' || f.error_message), lower(%(error)s)) > 0)
           and (%(frame)s::text is null or peers.innermost_frame(f.traceback) = %(frame)s)))
"""


def _values(filter: Mapping[str, Any]) -> dict[str, Any]:
    causes = ("error", "error_type", "frame")
    return {
        **{key: filter.get(key) for key in _KEYS},
        "any_cause": not any(key in filter for key in causes),
    }


def ids(connection: Connection, filter: Mapping[str, Any]) -> list[int]:
    """Return the ids of the dead letters that match, in ascending order."""
    query: LiteralString = f"select d.task_id from peers.dead d where {MATCHES} order by d.task_id"  # noqa: S608
    return [row["task_id"] for row in rows(connection, query, **_values(filter))]


def dead_letters(connection: Connection, filter: Mapping[str, Any], limit: int) -> list[Row]:
    """Return the newest dead letters that match; `total` says how many there are."""
    query: LiteralString = f"""
        with newest as materialized (
            select d.task_id, d.died_at, count(*) over () as total from peers.dead d
            where {MATCHES}
            order by d.died_at desc, d.task_id desc limit %(limit)s
        )
        select n.total, d.task_id, d.kind, d.queue, d.attempts, d.died_at,
               peers.now() - d.died_at as died_ago_seconds, d.error_type, d.error_message,
               peers.innermost_frame(d.traceback) as frame,
               d.exit_signal, d.peer, d.host, d.held_children
        from newest n
        cross join lateral (select * from peers.dead_letter l where l.task_id = n.task_id) d
        order by n.died_at desc, n.task_id desc"""  # noqa: S608
    return rows(connection, query, **_values(filter), limit=limit)


_GROUPED: Final = """
        , failed as materialized (
            select n.kind, f.error_type, f.traceback, count(*) as tasks,
                   min(n.died_at) as oldest, max(n.died_at) as newest, max(n.task_id) as example_id
            from matched n
            left join lateral (
                select x.error_type, x.traceback from peers.failure x
                where x.task_id = n.task_id order by x.id desc limit 1
            ) f on true
            group by n.kind, f.error_type, f.traceback
        )
        select f.kind, f.error_type, c.frame, sum(f.tasks)::bigint as tasks,
               min(f.oldest) as oldest, max(f.newest) as newest,
               peers.now() - min(f.oldest) as oldest_ago_seconds,
               peers.now() - max(f.newest) as newest_ago_seconds, max(f.example_id) as example_id
        from failed f
        -- the offset lets the frame be found once for each traceback
        cross join lateral (select peers.innermost_frame(f.traceback) as frame offset 0) c
        group by f.kind, f.error_type, c.frame
"""


def newest_causes(connection: Connection) -> list[Row]:
    """Return the causes of the newest dead letters: kind, error type and innermost frame.

    The cause that came last comes first.
    """
    query: LiteralString = f"""
        with matched as materialized (
            select d.task_id, d.kind, d.died_at from peers.dead d
            order by d.died_at desc, d.task_id desc limit %(newest)s
        ) {_GROUPED} order by newest desc, example_id desc"""  # noqa: S608
    return rows(connection, query, newest=NEWEST_GROUPED)


def causes(connection: Connection, filter: Mapping[str, Any]) -> list[Row]:
    """Return the causes of the dead letters that match, the most frequent first.

    These are the groups of the view peers.dead_cause. Reading each traceback once, even if many
    failures have the same, is several times as fast.
    """
    query: LiteralString = f"""
        with matched as materialized (
            select d.task_id, d.kind, d.died_at from peers.dead d where {MATCHES}
        ) {_GROUPED} order by tasks desc, newest desc, example_id desc"""  # noqa: S608
    return rows(connection, query, **_values(filter))


def dead_letter(connection: Connection, task_id: int) -> Row | None:
    """Return a dead letter with all its failures."""
    found = rows(
        connection,
        """
        select d.*, peers.now() - d.died_at as died_ago_seconds,
               peers.innermost_frame(d.traceback) as frame
        from peers.dead_letter d where d.task_id = %(id)s""",
        id=task_id,
    )
    return found[0] if found else None


def values(connection: Connection, key: str, limit: int) -> list[tuple[str, int]]:
    """Return the most frequent values of a key among all dead letters, with their numbers.

    Frames are those of the newest dead letters.
    """
    if key == "frame":
        frames: Counter[str] = Counter()
        for cause in newest_causes(connection):
            if cause["frame"]:
                frames[cause["frame"]] += cause["tasks"]
        return frames.most_common(limit)
    columns: dict[str, LiteralString] = {
        "kind": "d.kind",
        "queue": "d.queue",
        "error_type": """(select x.error_type from peers.failure x where x.task_id = d.task_id
                          order by x.id desc limit 1)""",
    }
    query: LiteralString = f"""
        select {columns[key]} as value, count(*) as tasks from peers.dead d
        group by 1 order by tasks desc, value limit %(limit)s"""  # noqa: S608
    return [(row["value"], row["tasks"]) for row in rows(connection, query, limit=limit)]


def held_kinds(connection: Connection, task_ids: list[int], limit: int) -> list[Row]:
    """Return the blocked descendants of these tasks, by kind, with some of their ids."""
    return rows(
        connection,
        """
        with recursive below(id) as (
            select i.id from unnest(%(ids)s::bigint[]) i(id)
            union
            select e.child_id
            from below join peers.dependency e on e.parent_id = below.id
            cross join lateral (
                select from peers.task c where c.id = e.child_id and c.state = 'blocked' offset 0
            ) c
            where not e.waived
        )
        select t.kind, count(*) as tasks, (array_agg(t.id order by t.id))[:%(limit)s] as task_ids
        from below join peers.task t on t.id = below.id
        where t.id <> all (%(ids)s)
        group by t.kind order by tasks desc, t.kind""",
        ids=task_ids,
        limit=limit,
    )


def graph_of(connection: Connection, task_id: int) -> int | None:
    """Return the graph that the task belongs to."""
    found = rows(connection, "select graph_id from peers.task where id = %(id)s", id=task_id)
    return found[0]["graph_id"] if found else None


def last_log(connection: Connection, task_id: int) -> Row | None:
    """Return the log of the last attempt that has one, or None if none was kept."""
    found = rows(
        connection,
        """
        select l.attempt, l.outcome, l.size, l.cut, l.text from peers.task_log l
        where l.task_id = %(id)s order by l.stored_at desc limit 1""",
        id=task_id,
    )
    return found[0] if found else None
