"""Find a run in the database, and see how far it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from psycopg.rows import dict_row

from peers.predict import kinds
from peers.predict.kinds import QUEUE, assemble_key
from peers.predict.spec import Manifest, output_of

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

MOST_TURNS: Final = 100
_STAGES: Final = (1, 2)

_TURNS: Final = """
    select t.id, (t.args ->> 'turn')::integer as turn, (t.args ->> 'stage')::integer as stage,
           t.state::text, t.result, extract(epoch from t.finished_at)::float8 as finished
    from peers.task t
    where t.idempotency_key = any (%(keys)s) order by turn, stage
"""
_NAMED: Final = """
    select t.args ->> 'manifest' as manifest, t.metadata ->> 'run' as run
    from peers.task t
    where t.kind = %(kind)s and %(name)s in (t.metadata ->> 'name', t.metadata ->> 'run')
    order by t.id desc limit 1
"""
_CONFLICTING: Final = """
    select t.metadata ->> 'run' as run, t.args ->> 'manifest' as manifest
    from peers.task t
    where t.kind = %(kind)s and t.state not in ('completed', 'dead', 'cancelled')
      and t.metadata ->> 'run' <> %(run)s
      and (t.state <> 'blocked' or exists (
          select from peers.dependency d join peers.task p on p.id = d.parent_id
          where d.child_id = t.id and p.state in ('scheduled', 'ready', 'running')))
    order by t.id desc
"""
# Of a chunk or a row that was submitted more than once, the last task counts.
_WORK: Final = """
    with work as (
        select distinct on (t.args -> 'chunk', t.args -> 'row') t.*
        from peers.dependency d join peers.task t on t.id = d.parent_id
        where d.child_id = any (%(turns)s) and t.kind = any (%(kinds)s)
        order by t.args -> 'chunk', t.args -> 'row', t.id desc
    )
"""
_TALLY: Final = """
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
_TROUBLE: Final = """
    select coalesce(nullif(f.error_message, ''), f.error_type) as why
    from (
        select id, state, attempt from work
        union all
        select id, state, attempt from peers.task where id = any (%(turns)s)
    ) t join peers.failure f on f.task_id = t.id
    where t.state in ('scheduled', 'ready', 'running')
      and f.attempt = t.attempt - case t.state when 'running' then 1 else 0 end
    order by f.id desc limit 1
"""
_COOLDOWN: Final = """
    select reason as why from peers.cooldown where name = %(name)s and ends_at > peers.now()
"""
_DEAD: Final = """
    select d.task_id, d.error_type, d.error_message, d.args, d.exit_signal
    from peers.dead_letter d
    where d.task_id in (select id from work union all select unnest(%(others)s::bigint[]))
    order by d.task_id limit %(limit)s
"""
_LOST: Final = """
    select d.task_id from work join peers.dead_letter d on d.task_id = work.id
    where d.error_type = 'lost'
"""
_STATES: Final = """
    select id, state::text, (args ->> 'chunk')::integer as chunk from work
"""
_ALIVE: Final = """
    select count(*) as peers from peers.peer_status
    where alive and queues ? %(queue)s and %(kind)s = any (kinds)
"""

CHUNKS: Final = (kinds.CHUNK, kinds.REMOTE)
ROWS: Final = (kinds.ROW, kinds.REMOTE_ROW)


@dataclass(frozen=True, slots=True)
class Turn:
    """An assembling task: the first stage waits for chunks, the second for rows alone."""

    id: int
    turn: int
    stage: int
    state: str
    result: dict[str, Any] | None
    finished: float | None

    @property
    def written(self) -> dict[str, Any] | None:
        """Return what it wrote, if it is the one that did."""
        return self.result if self.result and "output" in self.result else None


def turns(connection: Connection, run: str) -> list[Turn]:
    """Return the assembling tasks of a run so far, in order."""
    keys = [
        assemble_key(run, turn, stage) for turn in range(1, MOST_TURNS + 1) for stage in _STAGES
    ]
    return [Turn(**row) for row in fetch(connection, _TURNS, keys=keys)]


def find(connection: Connection, name: str) -> tuple[str, str] | None:
    """Return the manifest's path and the id of the newest run of this name or id."""
    found = fetch(connection, _NAMED, kind=kinds.ASSEMBLE, name=name)
    return (found[0]["manifest"], found[0]["run"]) if found else None


def conflicting_run(connection: Connection, manifest: Manifest) -> str | None:
    """Return another run that is under way and is going to write the same output, by any path."""
    ours = os.path.realpath(manifest.output)
    for found in fetch(connection, _CONFLICTING, kind=kinds.ASSEMBLE, run=manifest.run):
        if os.path.realpath(output_of(found["manifest"])) == ours:
            return str(found["run"])
    return None


def tally(connection: Connection, found: Sequence[Turn], of: Sequence[str]) -> dict[str, Any]:
    """Count what has become of the tasks of these kinds that the assembling tasks wait for."""
    [counts] = _work(connection, _TALLY, found, of)
    [under_way] = _work(connection, _UNDER_WAY, found, of)
    return {**counts, "under_way": under_way["rows"]}


def states(
    connection: Connection, found: Sequence[Turn], of: Sequence[str]
) -> list[dict[str, Any]]:
    """Return each of these tasks: id, state and number of its chunk."""
    return _work(connection, _STATES, found, of)


def trouble(connection: Connection, found: Sequence[Turn], endpoint: str) -> str | None:
    """Return why what will be tried again failed last, or why an endpoint is not called."""
    cooldown_left = fetch(connection, _COOLDOWN, name=kinds.cooldown_name(endpoint))
    failed = cooldown_left or _work(connection, _TROUBLE, found, (*CHUNKS, *ROWS))
    return failed[0]["why"] if failed else None


def dead_letters(
    connection: Connection, found: Sequence[Turn], of: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """Return the first dead letters of these tasks; of the assembling ones too, if wanted."""
    others = [turn.id for turn in found] if kinds.ASSEMBLE in of else []
    return _work(connection, _DEAD, found, of, others=others, limit=limit)


def lost(connection: Connection, found: Sequence[Turn]) -> list[int]:
    """Return the tasks of rows that are dead because their peers died."""
    return [letter["task_id"] for letter in _work(connection, _LOST, found, ROWS)]


def live_peers(connection: Connection, kind: str) -> int:
    """Count the live peers that can run tasks of this kind."""
    [row] = fetch(connection, _ALIVE, queue=QUEUE, kind=kind)
    return int(row["peers"])


def _work(
    connection: Connection, query: str, found: Sequence[Turn], of: Sequence[str], **values: object
) -> list[dict[str, Any]]:
    ids = [turn.id for turn in found]
    return fetch(connection, _WORK + query, turns=ids, kinds=list(of), **values)


def fetch(connection: Connection, query: str, **values: object) -> list[dict[str, Any]]:
    """Return the rows of a query, by the names of their columns."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
