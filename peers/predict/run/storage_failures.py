"""Detect that a run cannot continue because its folder or its output cannot be written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.predict.errors import StorageFailed
from peers.predict.run import failure_queries

if TYPE_CHECKING:
    from peers.predict.run.run import Run

_MIN_FAILURES: Final = 3
_MIN_SECONDS: Final = 5.0
"""Another program's temporary file may fill a disk for a moment."""


class StorageFailures:
    """The storage failures of a run's tasks from now on."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._since = failure_queries.newest_failure(run.connection)

    def raise_if_lasting(self) -> None:
        """Raise StorageFailed if tasks have failed to write again and again for some time."""
        found = failure_queries.storage_failures(
            self._run.connection, self._run.graph, StorageFailed.__name__, since=self._since
        )
        if found["failures"] >= _MIN_FAILURES and found["seconds"] >= _MIN_SECONDS:
            raise StorageFailed(f"run {self._run.manifest.run} cannot continue: {found['message']}")
