"""The queries about runs that the client API does not have. A run is a graph: see `run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peers.predict import kinds
from peers.predict.run.database import fetch

if TYPE_CHECKING:
    from peers.predict.run.database import Connection

CHUNKS: Final = (kinds.CHUNK, kinds.REMOTE)
ROWS: Final = (kinds.ROW, kinds.REMOTE_ROW)

# ---------------------------------------------------------------------------------- the run's graph

_CREATE: Final = """
    insert into peers.graph (name, idempotency_key, metadata)
    values (%(name)s, %(key)s, %(metadata)s)
    on conflict (idempotency_key) do nothing returning id
"""
# Any role can create a graph, so those with other metadata than a run's are left out.
_GRAPHS: Final = """
    with runs as (
        select id, metadata ->> 'run' as run, metadata ->> 'name' as name,
               metadata ->> 'manifest' as manifest, created_at, peers.now() - created_at as age
        from peers.graph
        where idempotency_key = 'peers.predict/' || (metadata ->> 'run')
          and metadata ->> 'manifest' is not null
    )
"""
_BY_RUN: Final = """
    select * from runs
    where id = (select g.id from peers.graph g where g.idempotency_key = %(key)s)
"""
_BY_NAME: Final = "select * from runs where name = %(name)s order by id desc limit 1"
_NEWEST: Final = "select *, count(*) over () as total from runs order by id desc limit %(limit)s"
_LIVE: Final = """
    select t.id, exists (select from peers.cancel_request r
                         where r.token = t.token and r.task_id = t.id) as cancel_requested
    from peers.task t
    where t.graph_id = %(graph)s and t.state in ('blocked', 'scheduled', 'ready', 'running')
    order by t.id desc
"""


class LiveTask(NamedTuple):
    """A task that has not ended; `cancel_requested`: its peer was asked to stop it."""

    id: int
    cancel_requested: bool


def create_graph(connection: Connection, name: str, run: str, metadata: str) -> int | None:
    """Create the graph of a run and return its id; None if the run has one."""
    found = fetch(connection, _CREATE, name=name, key=kinds.graph_key(run), metadata=metadata)
    return int(found[0]["id"]) if found else None


def find_graph(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return the graph of the run with this id, or of the newest one with this name."""
    found = fetch(connection, _GRAPHS + _BY_RUN, key=kinds.graph_key(name))
    found = found or fetch(connection, _GRAPHS + _BY_NAME, name=name)
    return found[0] if found else None


def newest_graphs(connection: Connection, limit: int | None) -> list[dict[str, Any]]:
    """Return the graphs of runs, the newest first, each with the total number of runs."""
    return fetch(connection, _GRAPHS + _NEWEST, limit=limit)


def live_tasks(connection: Connection, graph: int) -> list[LiveTask]:
    """Return the tasks of the run that have not ended, the last submitted first.

    The assembling task comes first, so that cancelling it does not wait for its parents.
    """
    return [LiveTask(**row) for row in fetch(connection, _LIVE, graph=graph)]


# --------------------------------------------------------------------------------- assembling tasks

_ASSEMBLIES: Final = """
    select id, (args ->> 'submission')::integer as submission, (args ->> 'stage')::integer as stage,
           state::text, result, extract(epoch from finished_at)::float8 as finished,
           peers.now() - finished_at as ended_ago
    from peers.task where graph_id = %(graph)s and kind = %(kind)s
    order by submission, stage
"""
# Starts from the tasks that are live, not from every task there ever was. A stale row's task has
# ended. A blocked task counts only while a parent can still end.
_LIVE_ASSEMBLIES: Final = """
    select t.graph_id, t.metadata ->> 'run' as run, t.args ->> 'manifest' as manifest
    from (
        select task_id from peers.ready where queue = %(queue)s and kind = %(kind)s
        union select task_id from peers.ready_limited
              where queue = %(queue)s and kind = %(kind)s
        union select p.id from peers.graph g join peers.task p on p.graph_id = g.id
              where g.paused_at is not null and p.state = 'ready' and p.kind = %(kind)s
        union select task_id from peers.scheduled
        union select task_id from peers.blocked where queue = %(queue)s
        union select unnest(task_ids) from peers.lease
    ) live
    join peers.task t on t.id = live.task_id
    where t.kind = %(kind)s and t.metadata ->> 'run' <> %(run)s
      and t.state in ('blocked', 'scheduled', 'ready', 'running')
      and (t.state <> 'blocked' or exists (
          select from peers.dependency d join peers.task p on p.id = d.parent_id
          where d.child_id = t.id and p.state in ('scheduled', 'ready', 'running')))
    order by t.id desc
"""


@dataclass(frozen=True, slots=True)
class Assembly:
    """An assembling task: the first stage waits for chunks, the second for isolated rows."""

    id: int
    submission: int
    stage: int
    state: str
    result: dict[str, Any] | None
    finished: float | None
    ended_ago: Any

    @property
    def written(self) -> dict[str, Any] | None:
        """The result of the task that wrote the output; None for any other."""
        return self.result if self.result and "output" in self.result else None


def assemblies(connection: Connection, graph: int) -> list[Assembly]:
    """Return the assembling tasks of a run, in order."""
    rows = fetch(connection, _ASSEMBLIES, graph=graph, kind=kinds.ASSEMBLE)
    return [Assembly(**row) for row in rows]


def live_assemblies(connection: Connection, *, other_than: str) -> list[dict[str, Any]]:
    """Return run and manifest of the assembling tasks of other runs that are under way."""
    return fetch(
        connection, _LIVE_ASSEMBLIES, queue=kinds.QUEUE, kind=kinds.ASSEMBLE, run=other_than
    )


# ---------------------------------------------------------------------------------- chunks and rows

# The last task counts if a chunk or a row was submitted more than once.
_WORK: Final = """
    with work as (
        select distinct on (args -> 'chunk', args -> 'row') *
        from peers.task where graph_id = %(graph)s and kind = any (%(kinds)s)
        order by args -> 'chunk', args -> 'row', id desc
    )
"""
_COUNTS: Final = """
    select count(*) filter (where state = 'completed') as completed,
           count(*) filter (where state = 'dead') as dead,
           count(*) filter (where state = 'cancelled') as cancelled,
           count(*) filter (where state in ('blocked', 'scheduled', 'ready', 'running')) as live,
           coalesce(sum((result ->> 'rows')::bigint), 0)::bigint as rows,
           coalesce(sum((result ->> 'isolated')::bigint), 0)::bigint as isolated,
           coalesce(sum((result ->> 'batches')::bigint), 0)::bigint as batches,
           coalesce(sum((result ->> 'rows')::bigint)
                        filter (where finished_at > peers.now() - interval '30 s'), 0)::bigint
               as recent,
           coalesce(sum(greatest(attempt - 1, 0)), 0)::bigint as retries,
           extract(epoch from min(started_at))::float8 as started,
           extract(epoch from peers.now())::float8 as now,
           coalesce(sum(extract(epoch from idle))
                        filter (where idle > interval '1 minute'), 0)::float8 as idle
    from (
        select w.*, w.started_at - max(coalesce(w.finished_at, peers.now())) over (
                   order by w.started_at rows between unbounded preceding and 1 preceding) as idle
        from work w
    ) w
"""
_UNDER_WAY: Final = """
    select coalesce(sum(r.progress_done), 0)::bigint as rows
    from work join peers.running r on r.task_id = work.id
"""
_STATES: Final = "select id, state::text, (args ->> 'chunk')::integer as chunk from work"
_CANCELLED: Final = """
    select (args ->> 'row')::bigint as row from work where state = 'cancelled' order by 1
"""
_LOST: Final = """
    select d.task_id from work join peers.dead_letter d on d.task_id = work.id
    where d.error_type = 'lost'
"""


def counts(connection: Connection, graph: int, of: Sequence[str]) -> dict[str, Any]:
    """Count the outcomes of the run's tasks of these kinds."""
    [found] = _work(connection, _COUNTS, graph, of)
    [under_way] = _work(connection, _UNDER_WAY, graph, of)
    return {**found, "under_way": under_way["rows"]}


def states(connection: Connection, graph: int, of: Sequence[str]) -> list[dict[str, Any]]:
    """Return the id, the state and the chunk number of each task of these kinds."""
    return _work(connection, _STATES, graph, of)


def cancelled_rows(connection: Connection, graph: int) -> list[int]:
    """Return the numbers of the rows whose last task was cancelled."""
    return [row["row"] for row in _work(connection, _CANCELLED, graph, ROWS)]


def lost_rows(connection: Connection, graph: int) -> list[int]:
    """Return the tasks of rows that are dead because their peers died."""
    return [row["task_id"] for row in _work(connection, _LOST, graph, ROWS)]


def _work(
    connection: Connection, query: str, graph: int, of: Sequence[str]
) -> list[dict[str, Any]]:
    return fetch(connection, _WORK + query, graph=graph, kinds=list(of))


# -------------------------------------------------------------------------------------------- peers

_LIVE_PEERS: Final = """
    select count(*) as peers from peers.peer_status
    where alive and queues ? %(queue)s and %(kind)s = any (kinds)
"""


def live_peers(connection: Connection, kind: str) -> int:
    """Count the live peers that can run tasks of this kind."""
    [row] = fetch(connection, _LIVE_PEERS, queue=kinds.QUEUE, kind=kind)
    return int(row["peers"])
