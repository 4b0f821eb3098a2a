"""Keep the main loop's connection: reconnect in the background, and put off what fails."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import Final, NoReturn, TypeVar

import psycopg

from peers import events
from peers.database.background import BackgroundConnector
from peers.database.backoff import Backoff, RetryTimer
from peers.database.connection import is_connection_lost
from peers.database.deadlines import BoundedConnection, NoAnswer
from peers.database.jobs import Job, JobRunner
from peers.database.pipeline import Pipeline
from peers.errors import DatabaseUnreachable, PeerLost, PeersError

Result = TypeVar("Result")

STOP_WITHIN: Final = 0.5
"""Seconds that a statement may go on after a signal."""
_REPORT_AGAIN_AFTER: Final = 60.0
"""Seconds after which the log repeats why connecting still fails."""


class ReconnectingConnection:
    """At most one connection, which is made again after a loss, and at most one job on it.

    It calls `on_reconnect` with every new connection but the first, `on_notify` with the payload of
    each notification (see `JobRunner`), `wake` from another thread when a try to connect has ended,
    and `on_progress` before each step that waits for the database, so that the main loop does not
    count as stuck.
    """

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        selector: selectors.BaseSelector,
        wake: Callable[[], None],
        *,
        on_reconnect: Callable[[], None] = lambda: None,
        on_notify: Callable[[str, bool], None] = lambda _payload, _is_own: None,
        on_progress: Callable[[], None] = lambda: None,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._selector = selector
        self._on_reconnect = on_reconnect
        self._on_notify = on_notify
        self._on_progress = on_progress
        self._on_error = on_error
        self._runner: JobRunner | None = None
        """It has the connection; None: there is none."""
        self._connector = BackgroundConnector(connect, wake, Backoff())
        self._jobs: dict[str, RetryTimer] = {}
        self._reconnecting = False
        self._deadline = float("inf")
        self._lost_at = 0.0
        self._reported: tuple[str, float] = ("", 0.0)
        """The reason of the last loss in the log, and when (monotonic) it was logged."""

    @property
    def is_up(self) -> bool:
        """Return whether there is a connection, as far as we know."""
        return self._runner is not None

    @property
    def is_idle(self) -> bool:
        """Return whether a job can be started."""
        return self._runner is not None and self._runner.is_idle

    @property
    def encoding(self) -> str:
        """Return the encoding of the database."""
        if self._runner is None:
            return "UTF8"
        return self._runner.connection.info.parameter_status("server_encoding") or "UTF8"

    @property
    def next_due(self) -> float:
        """Return when (monotonic) the next try to connect is due, or the replies to a job are."""
        return self._connector.due_at if self._runner is None else self._runner.pipeline.due_at

    # ---------------------------------------------------------------------------- connecting

    def use(self, connection: BoundedConnection) -> None:
        """Use this connection until it is lost."""
        connection.latest = self._deadline
        self._runner = JobRunner(connection, self._selector, self._on_notify)

    def restore(self) -> bool:
        """Reconnect if that is due; return whether there is a connection. This does not block."""
        if self._runner is None:
            self._reconnect(self._connector.poll)
        return self.is_up

    def reopen(self, within: float) -> bool:
        """Reconnect now, and wait for it; return whether there is a connection."""
        if self._runner is None:
            self._reconnect(lambda: self._connector.wait(within))
        return self.is_up

    def close(self) -> None:
        """Close the connection, and give up a try to connect."""
        self._connector.cancel()
        self._disconnect()

    def interrupt(self) -> None:
        """End the running statement soon. This is safe in a signal handler."""
        if self._runner is not None and self._runner.is_idle:  # the main loop goes on beside a job
            self._runner.connection.interrupt(STOP_WITHIN)

    def set_deadline(self, deadline: float) -> None:
        """Expect an end at this time (monotonic): later statements get a last moment each."""
        self._deadline = deadline
        if self._runner is not None:
            self._runner.connection.latest = deadline

    def _reconnect(self, attempt: Callable[[], BoundedConnection | None]) -> None:
        connection: BoundedConnection | None = None
        try:
            connection = attempt()
            if connection is None:
                return
            self.use(connection)
        except (PeersError, psycopg.Error, OSError, RuntimeError) as error:
            if connection is not None:
                connection.close()
            self._report_failure(error)
            return
        events.database_reconnected(seconds=time.monotonic() - self._lost_at)
        # A database that accepts connections may still refuse to work: keep the backoff meanwhile.
        self._reconnecting = True
        self._on_reconnect()

    def _disconnect(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            self._lost_at = time.monotonic()
            runner.close()

    def _report_failure(self, error: Exception) -> None:
        """Log that connecting failed, unless the log has said so for the same reason lately."""
        reason, at = self._reported
        if str(error).strip() == reason and time.monotonic() - at < _REPORT_AGAIN_AFTER:
            self._connector.failed()
        else:
            self._report_loss(error)

    def _report_loss(self, error: Exception) -> None:
        reason = str(error).strip()
        self._reported = reason, time.monotonic()
        events.database_lost(reason=reason, retry_in=self._connector.failed())

    # ---------------------------------------------------------------------------------- jobs

    def start(self, job: Job) -> None:
        """Send a job, whose replies `collect` takes. Raises `DatabaseUnreachable`."""
        assert self._runner is not None
        try:
            self._runner.start(job)
        except psycopg.Error as error:
            self._lose(error)

    def collect(self) -> None:
        """Conclude the job if its replies have come. Raises what it raises, `DatabaseUnreachable`.

        Notifications may come at any time.
        """
        try:
            if self._runner is not None and self._runner.collect():
                self._note_success()
        except psycopg.Error as error:
            self._lose(error)

    def finish(self, within: float = float("inf")) -> None:
        """Wait for the end of the job. A job that does not end in time loses the connection."""
        give_up = time.monotonic() + within
        while (runner := self._runner) is not None and not runner.is_idle:
            if time.monotonic() >= give_up:
                self._lose(NoAnswer("the database did not reply in time"))
            self._on_progress()
            try:
                runner.await_input()
                self.collect()
            except PeerLost:
                return  # the job is over, and the next statement raises it again
            except psycopg.Error as error:
                self._lose(error)

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
        return self._guarded(lambda runner: work(runner.connection))

    def transact(self, work: Callable[[Pipeline], Result]) -> Result:
        """Call `work` with a pipeline for statements alone, and raise what `do` raises."""
        return self._guarded(lambda runner: work(runner.pipeline))

    def _guarded(self, work: Callable[[JobRunner], Result]) -> Result:
        self.finish()
        runner = self._runner
        if runner is None:
            raise DatabaseUnreachable("the database cannot be reached at the moment")
        try:
            result = work(runner)
        except psycopg.Error as error:
            if is_connection_lost(error):
                self._lose(error)
            if isinstance(error, psycopg.OperationalError):
                raise DatabaseUnreachable(f"the database failed: {error}") from error
            raise
        finally:
            if self._runner is runner:
                runner.receive_notifications()  # they may have come with the reply
        self._note_success()
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
