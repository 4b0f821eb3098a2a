"""Keep the main loop's connection: reconnect in the background, and put off what fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import psycopg

from peers import events
from peers.database.background import BackgroundConnector
from peers.database.backoff import Backoff, RetryTimer
from peers.database.connection import is_connection_lost
from peers.database.deadlines import BoundedConnection
from peers.database.pooler import refuse_symptom
from peers.errors import DatabaseUnreachable, PeerLost, PeersError

Result = TypeVar("Result")

STOP_WITHIN: Final = 0.5
"""Seconds that a statement may go on after a signal."""


class ReconnectingConnection:
    """At most one connection, which is made again after a loss.

    It calls `on_reconnect` with every new connection but the first, `wake` from another thread when
    a try to connect has ended, and `on_progress` before each job, so that the main loop does not
    count as stuck when several jobs in a turn take their time.
    """

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        on_reconnect: Callable[[], None],
        wake: Callable[[], None],
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_progress = on_progress
        self._on_reconnect = on_reconnect
        self._connection: BoundedConnection | None = None
        self._connector = BackgroundConnector(connect, wake, Backoff())
        self._jobs: dict[str, RetryTimer] = {}
        self._statements = 0
        self._reconnecting = False
        self._deadline = float("inf")
        self._lost_at = 0.0

    @property
    def is_up(self) -> bool:
        """Return whether there is a connection, as far as we know."""
        return self._connection is not None

    @property
    def reconnect_at(self) -> float:
        """Return when (monotonic) the next try to connect is due."""
        return self._connector.due_at

    @property
    def is_backing_off(self) -> bool:
        """Return whether a job that the database has refused waits for its next try."""
        return any(not retry.is_due for retry in self._jobs.values())

    # ---------------------------------------------------------------------------- connecting

    def use(self, connection: BoundedConnection) -> None:
        """Use this connection until it is lost."""
        connection.latest = self._deadline
        self._connection = connection

    def restore(self) -> bool:
        """Reconnect if that is due; return whether there is a connection. This does not block."""
        if self._connection is None:
            self._reconnect(self._connector.poll)
        return self.is_up

    def reopen(self, within: float) -> bool:
        """Reconnect now, and wait for it; return whether there is a connection."""
        if self._connection is None:
            self._reconnect(lambda: self._connector.wait(within))
        return self.is_up

    def close(self) -> None:
        """Close the connection, and give up a try to connect."""
        self._connector.cancel()
        self._disconnect()

    def interrupt(self) -> None:
        """End the running statement soon. This is safe in a signal handler."""
        if self._connection is not None:
            self._connection.interrupt(STOP_WITHIN)

    def set_deadline(self, deadline: float) -> None:
        """Expect an end at this time (monotonic): later statements get a last moment each."""
        self._deadline = deadline
        if self._connection is not None:
            self._connection.latest = deadline

    def _reconnect(self, attempt: Callable[[], BoundedConnection | None]) -> None:
        try:
            connection = attempt()
        except (PeersError, psycopg.Error, OSError, RuntimeError) as error:
            self._report_loss(error)
            return
        if connection is None:
            return
        self.use(connection)
        events.database_reconnected(seconds=time.monotonic() - self._lost_at)
        # A database that accepts connections may still refuse to work: keep the backoff meanwhile.
        self._reconnecting = True
        try:
            self._on_reconnect()
        finally:
            self._reconnecting = False

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._lost_at = time.monotonic()

    def _report_loss(self, error: Exception) -> None:
        events.database_lost(reason=str(error).strip(), retry_in=self._connector.failed())

    # ----------------------------------------------------------------------------- using it

    def do(self, work: Callable[[BoundedConnection], Result]) -> Result:
        """Call `work` with the connection.

        Raises `DatabaseUnreachable` when there is no connection or it breaks; then it is unknown
        whether the statement took effect. Also raises it for errors that may pass in a moment: a
        lock, a deadlock, a full disk.
        """
        if self._connection is None:
            raise DatabaseUnreachable("the database cannot be reached at the moment")
        try:
            result = work(self._connection)
        except psycopg.Error as error:
            if is_connection_lost(error):
                self._disconnect()
                self._report_loss(error)
                raise DatabaseUnreachable(f"the connection was lost: {error}") from error
            if isinstance(error, psycopg.OperationalError):
                raise DatabaseUnreachable(f"the database failed: {error}") from error
            raise
        self._statements += 1
        if not self._reconnecting:
            self._connector.succeeded()
        return result

    def attempt(
        self, job: str, work: Callable[[], None], fatal: type[PeersError] = PeerLost
    ) -> None:
        """Do a job that uses the connection. Log and put off a job that the database refuses.

        Other jobs go on meanwhile. Raises `PeerLost` and `fatal`, `DatabaseUnreachable` when the
        connection is lost, and `ConfigError` when the error shows that a pooler is in between.
        """
        retry = self._jobs.setdefault(job, RetryTimer(Backoff()))
        if not retry.is_due:
            return
        self._on_progress()
        statements = self._statements
        try:
            work()
        except (PeerLost, fatal):
            raise
        except (psycopg.Error, PeersError) as error:
            refuse_symptom(error)
            if not self.is_up and isinstance(error, DatabaseUnreachable):
                raise  # `do` has logged it
            self._put_off(job, retry, error)
        else:
            if self._statements > statements:
                retry.succeeded()

    def _put_off(self, job: str, retry: RetryTimer, error: Exception) -> None:
        if not isinstance(error, DatabaseUnreachable):
            # The session may be the cause, such as a prepared plan that a migration invalidated.
            self._disconnect()
            self._connector.retry_now()
        events.database_refused(job=job, error=str(error).strip(), retry_in=retry.failed())
