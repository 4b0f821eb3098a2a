"""Tell that a run cannot continue: its files cannot be written, or no peer trusts its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from peers.predict.errors import ModelError, ModelNotTrusted, PredictError, StorageFailed
from peers.predict.run import failure_queries

if TYPE_CHECKING:
    from peers.predict.run.run import Run

_MIN_FAILURES: Final = 3
_MIN_SECONDS: Final = 5.0
"""Another program's temporary file may fill a disk for a moment."""


class LastingFailures:
    """The failures of a run's tasks from now on that an operator has to fix.

    `has_own_peer`: whether the command started a peer, which trusts the model. `messages`: those
    that failed attempts gave so far.
    """

    def __init__(self, run: Run, *, has_own_peer: bool) -> None:
        self._run = run
        self._has_own_peer = has_own_peer
        self._since = failure_queries.newest_failure(run.connection)
        self.messages: set[str] = set()

    def raise_if_lasting(self) -> None:
        """Raise StorageFailed or ModelError if tasks have failed again and again for some time."""
        run = self._run.manifest.run
        found = self._lasting(StorageFailed)
        if found is not None:
            raise StorageFailed(f"run {run} cannot continue: {found}")
        found = self._lasting(ModelNotTrusted)
        if found is not None and not self._is_trusted():
            raise ModelError(
                f"run {run} cannot continue: {found}",
                "Then run the same command again. Or run it with --workers 2: these workers trust "
                "the model that the command names.",
            )

    def _is_trusted(self) -> bool:
        return self._has_own_peer or failure_queries.is_trusted(
            self._run.connection, self._run.graph
        )

    def _lasting(self, error: type[PredictError]) -> str | None:
        found = failure_queries.lasting_failures(
            self._run.connection, self._run.graph, error.__name__, since=self._since
        )
        if found["message"] is not None:
            self.messages.add(found["message"])
        is_lasting = found["failures"] >= _MIN_FAILURES and found["seconds"] >= _MIN_SECONDS
        return found["message"] if is_lasting else None
