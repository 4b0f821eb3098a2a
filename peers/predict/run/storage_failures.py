"""Tell that a run cannot go on because its folder or its output cannot be written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.predict.errors import StorageFailed
from peers.predict.kinds import ASSEMBLE
from peers.predict.run import record

if TYPE_CHECKING:
    from peers.predict.run.record import Connection
    from peers.predict.spec import Manifest

_FEWEST: Final = 3
_LASTING: Final = 5.0
"""Seconds: another program's temporary file may fill a disk for a moment."""

_NEWEST: Final = "select coalesce(max(id), 0) as id from peers.failure"
# Counts from the last task that was completed: while some can write, the run goes on.
_FAILURES: Final = """
    with work as (
        select d.parent_id as id from peers.dependency d where d.child_id = any (%(turns)s)
        union
        select unnest(%(turns)s::bigint[])
    ), failed as (
        select f.id, f.failed_at, f.error_message
        from work join peers.failure f on f.task_id = work.id
        where f.id > %(since)s and f.error_type = %(error_type)s
          and f.failed_at > coalesce(
              (select max(t.finished_at) from work join peers.task t on t.id = work.id
               where t.state = 'completed' and t.kind <> %(assemble)s), '-infinity')
    )
    select count(*) as failures,
           coalesce(extract(epoch from peers.now() - min(failed_at)), 0)::float8 as seconds,
           (array_agg(error_message order by id desc))[1] as message
    from failed
"""


class StorageFailures:
    """Those of a run's tasks from now on."""

    def __init__(self, connection: Connection, manifest: Manifest) -> None:
        self._connection = connection
        self._run = manifest.run
        [newest] = record.fetch(connection, _NEWEST)
        self._since: int = newest["id"]

    def raise_if_lasting(self) -> None:
        """Raise StorageFailed if tasks fail for want of storage, and have for some time."""
        turns = [turn.id for turn in record.turns(self._connection, self._run)]
        [found] = record.fetch(
            self._connection, _FAILURES, turns=turns, since=self._since,
            error_type=StorageFailed.__name__, assemble=ASSEMBLE,
        )  # fmt: skip
        if found["failures"] >= _FEWEST and found["seconds"] >= _LASTING:
            raise StorageFailed(f"run {self._run} cannot go on: {found['message']}")
