"""The outcomes of async handlers that wait to be sent: neighbours of a run that ended as one."""

from __future__ import annotations

from typing import Final

from peers.protocol.messages import Completed, Failed
from peers.worker.assigned import Run

_FULL_BYTES: Final = 1 << 16
"""The results of one outcome: a message holds whole outcomes, and should not be too large."""


class PendingOutcomes:
    """Collects outcomes in the order in which the handlers end.

    Handlers that take equally long end in the order of their tasks. Their results become one
    outcome, so that the peer handles them together.
    """

    def __init__(self) -> None:
        self._outcomes: list[Completed | Failed] = []
        self._run: Run | None = None
        """The run of the results below; None: there are none."""
        self._kind = ""
        self._first = 0
        self._results: list[bytes] = []
        self._bytes = 0
        self._seconds = 0.0

    def __bool__(self) -> bool:
        return self._run is not None or bool(self._outcomes)

    def completed(self, run: Run, index: int, seconds: float, result: bytes) -> None:
        """Add the result of a task of a run, as JSON."""
        kind = run.kind(index)
        is_next = self._run is run and run.execution_id + index == self._first + len(self._results)
        if not is_next or kind != self._kind or self._bytes > _FULL_BYTES:
            self._end_run()
            self._run, self._kind, self._first = run, kind, run.execution_id + index
        self._results.append(result)
        self._bytes += len(result)
        self._seconds += seconds

    def add(self, outcomes: list[Completed | Failed]) -> None:
        """Add outcomes that stay on their own."""
        self._outcomes += outcomes

    def take(self) -> list[Completed | Failed]:
        """Take everything."""
        self._end_run()
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _end_run(self) -> None:
        if self._run is not None:
            body = b"[%b]" % b",".join(self._results)
            self._outcomes.append(Completed(self._first, self._seconds, body, len(self._results)))
            self._run, self._results, self._bytes, self._seconds = None, [], 0, 0.0
