"""A run as the database knows it: submit it, find it, and see how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import dict_row

from peers import ParentFailure, graph
from peers.predict import app, kinds
from peers.predict.kinds import QUEUE, assemble_key, chunk_key
from peers.predict.prepare import Plan
from peers.predict.spec import Manifest

if TYPE_CHECKING:
    import psycopg

    from peers import Node

    Connection = psycopg.Connection[Any]

_MOST_TURNS: Final = 100

_TURNS: Final = """
    select t.id, t.state::text, t.result, extract(epoch from t.finished_at)::float8 as finished
    from peers.task t
    where t.idempotency_key = any (%(keys)s) order by t.id
"""
_NAMED: Final = """
    select t.args ->> 'manifest' as manifest, t.metadata ->> 'run' as run
    from peers.task t
    where t.kind = %(kind)s and %(name)s in (t.metadata ->> 'name', t.metadata ->> 'run')
    order by t.id desc limit 1
"""
_PARENTS: Final = """
    select count(*) as tasks,
           count(*) filter (where t.state in ('completed', 'dead', 'cancelled')) as ended,
           count(*) filter (where t.state = 'running') as running,
           coalesce(array_agg(t.id order by t.id) filter (where t.state = 'dead'), '{}') as dead,
           coalesce(array_agg(t.id order by t.id) filter (where t.state = 'cancelled'), '{}')
               as cancelled,
           coalesce(sum((t.result ->> 'rows')::bigint), 0)::bigint as rows,
           coalesce(sum((t.result ->> 'suspects')::bigint), 0)::bigint as suspects,
           coalesce(sum((t.result ->> 'batches')::bigint), 0)::bigint as batches,
           coalesce(sum((t.result ->> 'model_seconds')::float8), 0) as model_seconds,
           coalesce(sum(greatest(t.attempt - 1, 0)), 0)::bigint as retries,
           extract(epoch from min(t.started_at))::float8 as started,
           extract(epoch from max(t.finished_at))::float8 as finished,
           extract(epoch from peers.now())::float8 as now
    from peers.dependency d join peers.task t on t.id = d.parent_id
    where d.child_id = %(child)s
"""
_UNDER_WAY: Final = """
    select coalesce(sum(r.progress_done), 0)::bigint as rows
    from peers.dependency d join peers.running r on r.task_id = d.parent_id
    where d.child_id = %(child)s
"""
_DEAD: Final = """
    select d.task_id, d.error_type, d.error_message, d.args, d.exit_signal
    from peers.dead_letter d where d.task_id = any (%(ids)s) order by d.task_id
"""
_ALIVE: Final = """
    select count(*) as peers from peers.peer_status
    where alive and queues ? %(queue)s and %(kind)s = any (kinds)
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """An assembling task: the first one waits for chunks, later ones for rows that stand alone."""

    id: int
    state: str
    result: dict[str, Any] | None
    finished: float | None

    @property
    def written(self) -> dict[str, Any] | None:
        """What it wrote, if it is the one that did."""
        return self.result if self.result and "output" in self.result else None


def submit(connection: Connection, plan: Plan, *, overwrite: bool) -> bool:
    """Submits the chunks and the assembling task, at once; False: they were there already."""
    manifest = plan.manifest
    if turns(connection, manifest.run):
        return False
    handler = app.remote if plan.asynchronous else app.chunk
    metadata = {"run": manifest.run, "name": manifest.name}
    limit = manifest.concurrency
    with graph(connection) as g:
        nodes: list[Node] = []
        for chunk in plan.chunks:
            # a limit of requests at once is a shape of the graph: so many chains
            after = [nodes[-limit]] if limit and len(nodes) >= limit else []
            options = handler.options(
                idempotency_key=chunk_key(manifest.run, chunk.number), queue=QUEUE,
                metadata=metadata,
            )  # fmt: skip
            nodes.append(g.add(
                options, after=after, on_parent_failure=ParentFailure.RUN if after else None,
                manifest=str(manifest.path), input=manifest.source, chunk=chunk.number,
                first=chunk.first, rows=chunk.rows, where=chunk.where,
            ))  # fmt: skip
        g.add(
            app.assemble.options(
                idempotency_key=assemble_key(manifest.run, 1), queue=QUEUE, metadata=metadata
            ),
            after=nodes, manifest=str(manifest.path), turn=1, overwrite=overwrite,
        )  # fmt: skip
    return True


def assemble_again(connection: Connection, manifest: Manifest, *, overwrite: bool) -> None:
    """Submits another assembling task: rows were retried since, or the output is gone."""
    before = turns(connection, manifest.run)
    first, last = before[0], before[-1]
    parents = [row["parent_id"] for row in _rows(
        connection, "select parent_id from peers.dependency where child_id = %(child)s",
        child=(last if len(before) > 1 else first).id,
    )]  # fmt: skip
    turn = len(before) + 1
    app.assemble.options(
        idempotency_key=assemble_key(manifest.run, turn), queue=QUEUE,
        depends_on=parents if len(before) > 1 else [], on_parent_failure=ParentFailure.RUN,
        metadata={"run": manifest.run, "name": manifest.name},
    ).submit_in(
        connection, manifest=str(manifest.path), turn=turn, overwrite=overwrite
    )  # fmt: skip


def turns(connection: Connection, run: str) -> list[Turn]:
    """The assembling tasks of a run so far."""
    keys = [assemble_key(run, turn) for turn in range(1, _MOST_TURNS + 1)]
    return [Turn(**row) for row in _rows(connection, _TURNS, keys=keys)]


def find(connection: Connection, name: str) -> tuple[str, str] | None:
    """The manifest's path and the id of the newest run of this name or id."""
    found = _rows(connection, _NAMED, kind=kinds.ASSEMBLE, name=name)
    return (found[0]["manifest"], found[0]["run"]) if found else None


def tally(connection: Connection, assembling: int) -> dict[str, Any]:
    """What has become of the parents of an assembling task, and what runs of them."""
    [counts] = _rows(connection, _PARENTS, child=assembling)
    [under_way] = _rows(connection, _UNDER_WAY, child=assembling)
    return {**counts, "under_way": under_way["rows"]}


def dead_letters(connection: Connection, ids: Sequence[int]) -> list[dict[str, Any]]:
    """The dead letters of these tasks."""
    return _rows(connection, _DEAD, ids=list(ids))


def retry(connection: Connection, ids: Sequence[int]) -> None:
    """Dead tasks get another chance."""
    connection.execute("select peers.retry(id) from unnest(%s::bigint[]) as dead(id)", [list(ids)])


def live_peers(connection: Connection, kind: str) -> int:
    """How many peers could run tasks of this kind."""
    [row] = _rows(connection, _ALIVE, queue=QUEUE, kind=kind)
    return int(row["peers"])


def _rows(connection: Connection, query: str, **values: object) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
