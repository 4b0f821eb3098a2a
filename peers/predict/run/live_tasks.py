"""The tasks of a run that are not over: waiting or running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peers.predict import kinds
from peers.predict.run.record import CHUNKS, ROWS

if TYPE_CHECKING:
    from peers.predict.run.record import Connection

_KINDS: Final = [*CHUNKS, *ROWS, kinds.ASSEMBLE]

# Reads what is live instead of every task there ever was. A stale row's task is over.
_LIVE: Final = """
    select t.id, t.state::text, coalesce(l.cancel_requested, false) as is_told
    from (
        select task_id from peers.ready where queue = %(queue)s and kind = any (%(kinds)s)
        union select task_id from peers.scheduled
        union select task_id from peers.blocked where queue = %(queue)s
        union select task_id from peers.lease
    ) live
    join peers.task t on t.id = live.task_id
    left join peers.lease l on l.task_id = t.id
    where t.kind = any (%(kinds)s) and t.metadata ->> 'run' = %(run)s
      and t.state in ('blocked', 'scheduled', 'ready', 'running')
    order by t.id desc
"""


class LiveTask(NamedTuple):
    """One of them; `is_told`: its peer is told to stop it."""

    id: int
    state: str
    is_told: bool


def live_tasks(connection: Connection, run: str) -> list[LiveTask]:
    """Return those of this run, the last submitted first."""
    values: dict[str, Any] = {"queue": kinds.QUEUE, "kinds": _KINDS, "run": run}
    return [LiveTask(*row) for row in connection.execute(_LIVE.encode(), values).fetchall()]
