"""The SQL of the client's operations on graphs; see `peers.client.statements`."""

from __future__ import annotations

from typing import Any, Final

from peers.client.records import GraphStatus
from peers.client.statements import Statement
from peers.errors import GraphNotFound


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
