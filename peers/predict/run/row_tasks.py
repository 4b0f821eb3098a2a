"""The tasks of a run's rows that stand alone, as the database knows them.

No assembling task waits for them before all chunks are done, so they are found by the run's id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import RunStopped
from peers.predict.run.record import ROWS, fetch

if TYPE_CHECKING:
    from peers.predict.run.record import Connection

_LAST_FAILURES: Final = """
    with last as (
        select x.task_id, f.error_type
        from peers.dead x
        join peers.task t on t.id = x.task_id
        cross join lateral (
            select f.error_type from peers.failure f where f.task_id = x.task_id
            order by f.id desc limit 1
        ) f
        where x.kind = any (%(kinds)s) and t.metadata ->> 'run' = %(run)s
    )
"""
_COUNTS: Final = """
    select count(*) filter (where error_type <> %(stopped)s) as dead from last
"""
_IDS: Final = """
    select task_id from last where %(with_dead)s or error_type = %(stopped)s order by task_id
"""
_LETTERS: Final = """
    select d.task_id, d.error_type, d.error_message, d.args, d.exit_signal
    from (select task_id from last where error_type <> %(stopped)s
          order by task_id limit %(limit)s) l
    cross join lateral (select * from peers.dead_letter d where d.task_id = l.task_id) d
    order by d.task_id
"""
# A row that was submitted again after its task was cancelled has a newer one.
_CANCELLED: Final = """
    select row from (
        select distinct on (t.args -> 'row') (t.args ->> 'row')::bigint as row, t.state
        from peers.task t
        where t.id >= %(since)s and t.kind = any (%(kinds)s) and t.metadata ->> 'run' = %(run)s
        order by t.args -> 'row', t.id desc
    ) newest
    where state = 'cancelled' order by row
"""


@dataclass(frozen=True, slots=True)
class RowTasks:
    """Those of one run."""

    connection: Connection
    run: str

    def dead(self) -> int:
        """Count the rows that are dead for a reason of their own."""
        [counts] = self._rows(_LAST_FAILURES + _COUNTS)
        return int(counts["dead"])

    def to_retry(self, *, with_dead: bool) -> list[int]:
        """Return the tasks that a stop has rejected; with those of all dead rows, if wanted."""
        found = self._rows(_LAST_FAILURES + _IDS, with_dead=with_dead)
        return [row["task_id"] for row in found]

    def letters(self, limit: int) -> list[dict[str, Any]]:
        """Return the first dead letters of rows that are dead for a reason of their own."""
        return self._rows(_LAST_FAILURES + _LETTERS, limit=limit)

    def cancelled(self, since: int) -> list[int]:
        """Return the rows whose newest task was cancelled; the run has no task before `since`."""
        return [row["row"] for row in self._rows(_CANCELLED, since=since)]

    def _rows(self, query: str, **values: object) -> list[dict[str, Any]]:
        return fetch(
            self.connection, query, kinds=list(ROWS), run=self.run, stopped=RunStopped.__name__,
            **values,
        )  # fmt: skip
