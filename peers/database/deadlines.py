"""Bounds on what a peer waits for in the database, so that SIGTERM and the lease come first.

The server's own bounds end a statement that waits for a lock or works too long. The bound on the
answer ends one that a server (or the network before it) never answers: the connection is closed,
and counts as lost.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import psycopg

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.waiting import Ready, Wait

Result = TypeVar("Result")

_LAST_MOMENT: Final = 1.0
"""Seconds that a statement gets which begins when time is already up: to give back, to leave."""


class Bounds(NamedTuple):
    """Seconds that a statement may take.

    `lock` and `statement` are kept by the server (lock_timeout, statement_timeout), `answer` by us.
    It is the longest, so that a server that is well has its say.
    """

    lock: float
    statement: float
    answer: float

    @classmethod
    def of_main_loop(cls, lease: float) -> Bounds:
        """No step of the main loop may take a third of a lease, or there is no heartbeat.

        A step may meet the server's bound twice: with a batch, and with the first one alone.
        """
        return cls(min(lease / 12, 5), min(lease / 6, 20), min(lease / 4, 30))

    @classmethod
    def of_heartbeat(cls, lease: float) -> Bounds:
        """One that is not answered leaves time for another before the fence at 0.85 of a lease."""
        return cls(min(lease / 12, 5), min(lease / 3, 30), min(lease * 0.4, 40))


SHORT_MAINTENANCE: Final = Bounds(2, 8, 10)
"""Promote and reclaim: 1,000 tasks at a time."""
LONG_MAINTENANCE: Final = Bounds(2, 120, 150)
"""Prune and alarms: 10,000 tasks at a time, or a look at every kind, on a cold disk."""


class NoAnswer(psycopg.OperationalError):
    """The database did not answer in time. Whether the statement was done, nobody knows."""


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is closed, with `NoAnswer`, when an answer takes too long.

    No thread watches it: psycopg looks up from its wait every 0.1 s, for signals, and asks here.
    """

    answer_within: float = float("inf")
    """Seconds."""
    latest: float = float("inf")
    """When (monotonic) everything should be over: what begins later gets a last moment."""
    _cut_at: float = 0.0

    def cut(self, within: float) -> None:
        """Wait for the statement that runs now no longer than `within` seconds.

        Safe from a signal handler and from any thread. Statements that begin later are not
        concerned; nothing is cancelled in the server, so that no commit is.
        """
        self._cut_at = time.monotonic() + within

    def wait(self, gen: PQGen[Result], *args: Any, **options: Any) -> Result:
        """Wait for an answer, within the bound. Every statement passes through here."""
        try:
            return super().wait(self._bounded(gen), *args, **options)
        except NoAnswer:
            self.close()
            raise

    def _bounded(self, gen: PQGen[Result]) -> Generator[Wait, Ready | int, Result]:
        began = time.monotonic()
        try:
            wait = next(gen)
            while True:
                ready = yield wait
                if not ready:  # nothing came for 0.1 s
                    self._look_at_clock(began)
                wait = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _look_at_clock(self, began: float) -> None:
        now = time.monotonic()
        due = min(began + self.answer_within, max(self.latest, began + _LAST_MOMENT))
        if began < self._cut_at:
            due = min(due, self._cut_at)
        if now >= due:
            raise NoAnswer(f"the database did not answer for {now - began:.1f} s")
