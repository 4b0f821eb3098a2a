"""The outcomes of a worker that wait to be sent: results of the same kind as one run."""

from __future__ import annotations

from typing import Final

from peers.protocol.messages import Completed, Failed

_FULL_BYTES: Final = 1 << 20
"""About the size of an Outcomes message: the peer holds it several times over."""


class CollectedOutcomes:
    """Collects the outcomes of tasks in the order in which they run."""

    def __init__(self) -> None:
        self.results: list[bytes] = []
        """The results of consecutive executions, as JSON. The last one may still be added to."""
        self._first = 0
        self._started_ns = 0
        self._bytes = 0
        self._outcomes: list[Completed | Failed] = []

    def __bool__(self) -> bool:
        return bool(self.results or self._outcomes)

    @property
    def is_full(self) -> bool:
        """Return whether they should be sent now."""
        return self._bytes > _FULL_BYTES

    def begin(self, execution_id: int, started_ns: int) -> None:
        """Begin a run of results with that of this execution."""
        self._first = execution_id
        self._started_ns = started_ns

    def note_size(self, size: int) -> None:
        """Note that a result of this size was added."""
        self._bytes += size

    def end(self, now_ns: int) -> None:
        """End the run of results: what comes next is of another run, or of another kind."""
        if self.results:
            seconds = (now_ns - self._started_ns) / 1e9
            body = b"[%b]" % b",".join(self.results)
            self._outcomes.append(Completed(self._first, seconds, body, len(self.results)))
            self.results.clear()

    def add(self, *outcomes: Completed | Failed) -> None:
        """Add outcomes of single tasks. The run of results has ended."""
        self._outcomes += outcomes

    def take(self) -> list[Completed | Failed]:
        """Take everything. The run of results has ended."""
        outcomes, self._outcomes = self._outcomes, []
        self._bytes = 0
        return outcomes
