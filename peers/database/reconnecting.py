"""Keep the main loop's connection: reconnect in the background, and put off what fails."""

from __future__ import annotations

import select
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

import psycopg
from psycopg.pq.abc import PGresult

from peers import events
from peers.database.background import BackgroundConnector
from peers.database.backoff import Backoff, RetryTimer
from peers.database.connection import is_connection_lost
from peers.database.deadlines import BoundedConnection, Bounds, NoAnswer
from peers.database.pipeline import Pipeline, Statement, StatementRefused
from peers.errors import DatabaseUnreachable, PeerLost, PeersError

Result = TypeVar("Result")

STOP_WITHIN: Final = 0.5
"""Seconds that a statement may go on after a signal."""
_CHECK_EVERY: Final = 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """Statements of one transaction, and what to do at its end."""

    statements: list[Statement]
    on_committed: Callable[[list[PGresult]], None]
    """It takes a result for each statement."""
    on_refused: Callable[[StatementRefused], None]
    """Nothing was committed."""
    on_lost: Callable[[], None] = lambda: None
    """The connection was lost, so that it is unknown whether the transaction was committed."""
    bounds: Bounds | None = None


class ReconnectingConnection:
    """At most one connection, which is made again after a loss, and at most one job on it.

    It calls `on_reconnect` with every new connection but the first, `on_notify` with the payload of
    each notification, `wake` from another thread when a try to connect has ended, and `on_progress`
    before each step that waits for the database, so that the main loop does not count as stuck.
    """

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        selector: selectors.BaseSelector,
        wake: Callable[[], None],
        *,
        on_reconnect: Callable[[], None] = lambda: None,
        on_notify: Callable[[str], None] = lambda _: None,
        on_progress: Callable[[], None] = lambda: None,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._selector = selector
        self._on_reconnect = on_reconnect
        self._on_notify = on_notify
        self._on_progress = on_progress
        self._on_error = on_error
        self._connection: BoundedConnection | None = None
        self._pipeline: Pipeline | None = None
        self._job: Job | None = None
        self._fd = -1
        self._sees_input = False
        self._connector = BackgroundConnector(connect, wake, Backoff())
        self._jobs: dict[str, RetryTimer] = {}
        self._reconnecting = False
        self._deadline = float("inf")
        self._lost_at = 0.0

    @property
    def is_up(self) -> bool:
        """Return whether there is a connection, as far as we know."""
        return self._connection is not None

    @property
    def is_idle(self) -> bool:
        """Return whether a job can be started."""
        return self._connection is not None and self._job is None

    @property
    def encoding(self) -> str:
        """Return the encoding of the database."""
        if self._connection is None:
            return "UTF8"
        return self._connection.info.parameter_status("server_encoding") or "UTF8"

    @property
    def next_due(self) -> float:
        """Return when (monotonic) the next try to connect is due, or the replies to a job are."""
        if self._pipeline is None:
            return self._connector.due_at
        return self._pipeline.due_at

    # ---------------------------------------------------------------------------- connecting

    def use(self, connection: BoundedConnection) -> None:
        """Use this connection until it is lost."""
        connection.latest = self._deadline
        connection.add_notify_handler(lambda notify: self._on_notify(notify.payload))
        self._fd = connection.fileno()  # kept: a broken connection no longer knows it
        self._selector.register(self._fd, selectors.EVENT_READ, self._see_input)
        self._connection = connection
        self._pipeline = Pipeline(connection)

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
        if self._connection is not None and self._job is None:  # the main loop goes on beside a job
            self._connection.interrupt(STOP_WITHIN)

    def set_deadline(self, deadline: float) -> None:
        """Expect an end at this time (monotonic): later statements get a last moment each."""
        self._deadline = deadline
        if self._connection is not None:
            self._connection.latest = deadline

    def _reconnect(self, attempt: Callable[[], BoundedConnection | None]) -> None:
        try:
            connection = attempt()
            if connection is None:
                return
            self.use(connection)
        except (PeersError, psycopg.Error, OSError, RuntimeError) as error:
            self._report_loss(error)
            return
        events.database_reconnected(seconds=time.monotonic() - self._lost_at)
        # A database that accepts connections may still refuse to work: keep the backoff meanwhile.
        self._reconnecting = True
        self._on_reconnect()

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        self._selector.unregister(self._fd)
        self._connection.close()
        self._connection = self._pipeline = None
        self._sees_input = False
        self._lost_at = time.monotonic()
        job, self._job = self._job, None
        if job is not None:
            job.on_lost()

    def _report_loss(self, error: Exception) -> None:
        events.database_lost(reason=str(error).strip(), retry_in=self._connector.failed())

    # ---------------------------------------------------------------------------------- jobs

    def start(self, job: Job) -> None:
        """Send a job, whose replies `collect` takes. Raises `DatabaseUnreachable`."""
        assert self._pipeline is not None
        assert self._job is None
        self._job = job
        try:
            self._pipeline.send(job.statements, job.bounds)
            self._select_for_writing()
        except psycopg.Error as error:
            self._lose(error)

    def collect(self) -> None:
        """Conclude the job if its replies have come. Raises what it raises, `DatabaseUnreachable`.

        Notifications may come at any time.
        """
        if self._pipeline is None:
            return
        try:
            if self._sees_input:
                self._sees_input = False
                self._receive(self._pipeline)
            elif self._job is not None:
                self._pipeline.check_time()
        except psycopg.Error as error:
            self._lose(error)

    def finish(self, within: float = float("inf")) -> None:
        """Wait for the end of the job. A job that does not end in time loses the connection."""
        give_up = time.monotonic() + within
        while self._has_job():
            self._on_progress()
            self._sees_input = self._await_input()
            try:
                self.collect()
            except PeerLost:
                return  # the job is over, and the next statement raises it again
            if self._has_job() and time.monotonic() >= give_up:
                self._lose(NoAnswer("the database did not reply in time"))

    def _has_job(self) -> bool:
        return self._job is not None

    def _await_input(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if self._pipeline is not None:
            self._pipeline.flush()
        return bool(poll.poll(_CHECK_EVERY * 1000))

    def _see_input(self) -> None:
        self._sees_input = True

    def _receive(self, pipeline: Pipeline) -> None:
        if self._job is None:
            pipeline.consume()
            self._receive_notifications()
            return
        try:
            results = pipeline.receive()
        except StatementRefused as refused:
            job, self._job = self._job, None
            self._receive_notifications()
            job.on_refused(refused)
            return
        if results is None:
            self._select_for_writing()
            return
        job, self._job = self._job, None
        self._note_success()
        try:
            job.on_committed(results)
        finally:
            self._receive_notifications()

    def _receive_notifications(self) -> None:
        if self._connection is None:
            return
        pgconn = self._connection.pgconn
        while (notify := pgconn.notifies()) is not None:
            self._on_notify(notify.extra.decode("utf-8", "replace"))

    def _select_for_writing(self) -> None:
        assert self._pipeline is not None
        writing = 0 if self._pipeline.flush() else selectors.EVENT_WRITE
        if self._selector.get_key(self._fd).events != selectors.EVENT_READ | writing:
            self._selector.modify(self._fd, selectors.EVENT_READ | writing, self._see_input)

    def _note_success(self) -> None:
        if self._reconnecting:
            self._reconnecting = False  # the first statement after a reconnect proves little
        else:
            self._connector.succeeded()

    def _lose(self, error: psycopg.Error) -> NoReturn:
        self._disconnect()
        self._report_loss(error)
        raise DatabaseUnreachable(f"the connection was lost: {error}") from error

    # ----------------------------------------------------------------------------- using it

    def do(self, work: Callable[[BoundedConnection], Result]) -> Result:
        """Call `work` with the connection, after the job in progress.

        Raises `DatabaseUnreachable` when there is no connection or it breaks; then it is unknown
        whether the statement took effect. Also raises it for errors that may pass in a moment: a
        lock, a deadlock, a full disk.
        """
        return self._guarded(lambda: work(self._current()[0]))

    def transact(self, work: Callable[[Pipeline], Result]) -> Result:
        """Call `work` with a pipeline for statements alone, and raise what `do` raises."""
        return self._guarded(lambda: work(self._current()[1]))

    def _current(self) -> tuple[BoundedConnection, Pipeline]:
        if self._connection is None or self._pipeline is None:
            raise DatabaseUnreachable("the database cannot be reached at the moment")
        return self._connection, self._pipeline

    def _guarded(self, work: Callable[[], Result]) -> Result:
        self.finish()
        try:
            result = work()
        except psycopg.Error as error:
            if is_connection_lost(error):
                self._lose(error)
            if isinstance(error, psycopg.OperationalError):
                raise DatabaseUnreachable(f"the database failed: {error}") from error
            raise
        self._note_success()
        self._receive_notifications()  # they may have come with the reply
        return result

    def is_put_off(self, job: str) -> bool:
        """Return whether a job that the database has refused waits for its next try."""
        retry = self._jobs.get(job)
        return retry is not None and not retry.is_due

    def retry_at(self, job: str) -> float:
        """Return when (monotonic) a job may be tried: 0.0 unless the database has refused it."""
        retry = self._jobs.get(job)
        return 0.0 if retry is None else retry.due_at

    def succeeded(self, *jobs: str) -> None:
        """Note that these jobs were done: the next failure waits for the shortest time again."""
        for job in jobs:
            self._jobs.pop(job, None)

    def attempt(
        self, job: str, work: Callable[[], None], fatal: type[PeersError] = PeerLost
    ) -> None:
        """Do a job that uses the connection. Log and put off a job that the database refuses.

        Other jobs go on meanwhile. Raises `PeerLost` and `fatal`, and `DatabaseUnreachable` when
        the connection is lost.
        """
        if self.is_put_off(job):
            return
        self._on_progress()
        try:
            work()
        except (PeerLost, fatal):
            raise
        except (psycopg.Error, PeersError) as error:
            if not self.is_up and isinstance(error, DatabaseUnreachable):
                raise  # it was logged when the connection was lost
            self.put_off(job, error)
        else:
            self.succeeded(job)

    def put_off(self, job: str, error: Exception) -> None:
        """Log a job that the database has refused, and try it again after a growing wait.

        Errors that are not known to pass get a new session: it may be the cause.
        """
        if not isinstance(error, DatabaseUnreachable | psycopg.OperationalError):
            self.renew_session(error)
        events.database_refused(job=job, error=str(error).strip(), retry_in=self.delay(job))

    def delay(self, job: str) -> float:
        """Try a job again after a growing wait; return the seconds until then."""
        return self._jobs.setdefault(job, RetryTimer(Backoff())).failed()

    def renew_session(self, error: Exception) -> None:
        """Connect again at once, because the session may be the cause of this error.

        A migration may have outdated a prepared statement, or a pooler exchanged the session.
        """
        self._on_error(error)
        self._disconnect()
        self._connector.retry_now()
