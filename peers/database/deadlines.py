"""Limit how long a peer waits for the database, so that it reacts to SIGTERM and keeps its lease.

The server's own limits end a statement that waits for a lock or works too long. The limit on the
reply covers a server or network that is silent: the connection is closed, and counts as lost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import generators
from psycopg.pq import PipelineStatus, TransactionStatus

if TYPE_CHECKING:
    from psycopg.abc import Params, PQGen
    from psycopg.waiting import Ready, Wait

Result = TypeVar("Result")

_REPLY_WITHIN: Final = 5.0
"""Seconds for the reply to a statement that was cancelled, as in psycopg."""
_LAST_MOMENT: Final = 1.0
"""Seconds for a statement that begins after the deadline, to release tasks and to leave."""


class Bounds(NamedTuple):
    """The seconds that a statement may take.

    The server keeps `lock` (lock_timeout) and `statement` (statement_timeout). We keep `answer`. It
    is the longest of the three, so that a healthy server can report its own limit.
    """

    lock: float
    statement: float
    answer: float

    def settings(self) -> dict[str, str]:
        """Return the settings of the server for these bounds."""
        return {
            "lock_timeout": str(max(1, round(self.lock * 1000))),
            "statement_timeout": str(max(1, round(self.statement * 1000))),
        }

    @classmethod
    def of_main_loop(cls, lease: float) -> Bounds:
        """Return bounds below a third of a lease: a longer step would stop the heartbeat.

        A step may reach the server's limit twice: with a batch, then with its first outcome alone.
        """
        return cls(min(lease / 12, 5), min(lease / 6, 20), min(lease / 4, 30))

    @classmethod
    def of_heartbeat(cls, lease: float) -> Bounds:
        """Return bounds that leave time for a second heartbeat before the fence (0.85 lease)."""
        return cls(min(lease / 12, 5), min(lease / 3, 30), min(lease * 0.4, 40))

    @classmethod
    def of_maintenance(cls, lease: float) -> Bounds:
        """Return bounds for maintenance on the main loop's connection, where tasks wait for it."""
        return cls(min(lease / 40, 0.25), min(lease / 6, 2), min(lease / 4, 30))


class NoAnswer(psycopg.OperationalError):
    """The database did not reply in time. The statement may or may not have taken effect."""


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that closes and raises `NoAnswer` when a reply takes too long.

    After Ctrl-C it is ready for the next statement, or closed.

    This needs no thread: psycopg interrupts its wait every 0.1 s for signals, and calls us then.
    """

    answer_within: float = float("inf")
    """Seconds."""
    latest: float = float("inf")
    """The deadline (monotonic) of all statements. One that begins later gets a last moment."""
    pooled: bool = False
    """Whether a pooler lends it sessions, so that each transaction must set its own bounds."""
    bounds: Bounds | None = None
    """The bounds that the server keeps. None leaves them to its own settings."""
    local_settings: Mapping[str, str] = MappingProxyType({})
    """What each transaction sets at its begin, behind a pooler."""
    _interrupted_at: float = 0.0
    _interrupt_due_at: float = 0.0

    def interrupt(self, within: float) -> None:
        """Wait no longer than `within` seconds for the statement that runs now.

        This is safe in a signal handler and from any thread, and has no effect on later statements.
        It cancels nothing in the server, because that might cancel a commit.
        """
        now = time.monotonic()
        self._interrupt_due_at = now + within
        self._interrupted_at = now

    def due_at(self, began: float) -> float:
        """Return when (monotonic) the reply to a statement that began then is overdue."""
        due = min(began + self.answer_within, max(self.latest, began + _LAST_MOMENT))
        return min(due, self._interrupt_due_at) if began < self._interrupted_at else due

    def check_time(self, began: float) -> None:
        """Raise `NoAnswer` if the reply to a statement that began then is overdue."""
        now = time.monotonic()
        if now >= self.due_at(began):
            raise NoAnswer(f"the database did not reply for {now - began:.1f} s")

    def execute(
        self, query: Any, params: Params | None = None, **options: Any
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Execute a statement within the bounds."""
        if not self.local_settings or not self._is_idle:
            return super().execute(query, params, **options)
        with self.transaction():
            return super().execute(query, params, **options)

    @contextlib.contextmanager
    def transaction(self, *args: Any, **options: Any) -> Iterator[psycopg.Transaction]:
        """Run a transaction, within the bounds."""
        is_outermost = self._is_idle
        with super().transaction(*args, **options) as transaction:
            if self.local_settings and is_outermost:
                self.set_locally(self.local_settings)
            yield transaction

    def set_locally(self, settings: Mapping[str, str]) -> None:
        """Set these for the transaction in progress."""
        calls = ", ".join(["set_config(%s, %s, true)"] * len(settings))
        pairs = [part for pair in settings.items() for part in pair]
        super().execute(f"select {calls}".encode(), pairs)

    @property
    def _is_idle(self) -> bool:
        return self.info.transaction_status == TransactionStatus.IDLE

    @property
    def _is_active(self) -> bool:
        return self.info.transaction_status == TransactionStatus.ACTIVE

    def wait(self, gen: PQGen[Result], *args: Any, **options: Any) -> Result:
        """Wait for a reply, within the bounds. psycopg calls this for every statement."""
        try:
            return super().wait(self._bounded(gen), *args, **options)
        except NoAnswer:
            self.close()
            raise
        except psycopg.Error:
            raise
        except BaseException:
            self._end_interrupted()
            raise

    def _end_interrupted(self) -> None:
        """Read the reply to a statement that Ctrl-C has interrupted; the next one can then begin.

        psycopg has cancelled the statement. It has also read the reply, unless Python raised the
        exception inside one of its generators.
        """
        try:
            if self._is_active and self.pgconn.pipeline_status == PipelineStatus.OFF:
                super().wait(generators.execute(self.pgconn), timeout=_REPLY_WITHIN)
        except psycopg.Error:
            pass  # the exception that interrupted the statement tells more
        finally:
            if self._is_active:
                self.close()

    def _bounded(self, gen: PQGen[Result]) -> Generator[Wait, Ready | int, Result]:
        began = time.monotonic()
        try:
            wait = next(gen)
            while True:
                ready = yield wait
                if not ready:  # nothing came for 0.1 s
                    self.check_time(began)
                wait = gen.send(ready)
        except StopIteration as end:
            result: Result = end.value
            return result
