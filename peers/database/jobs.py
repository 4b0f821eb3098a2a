"""Do one job after the other on a connection, while the main loop serves others."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from dataclasses import dataclass

from psycopg.pq.abc import PGresult

from peers.database.deadlines import BoundedConnection, Bounds
from peers.database.pipeline import Pipeline, Statement, StatementRefused


@dataclass(slots=True)  # not frozen: that costs a call for each field
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


class JobRunner:
    """A connection that the selector watches, with at most one job.

    It calls `on_notify` with the payload of each notification, and whether this session has sent it
    itself. Its own ones come together with the replies to its job. Methods raise psycopg's error
    when the connection is lost.
    """

    def __init__(
        self,
        connection: BoundedConnection,
        selector: selectors.BaseSelector,
        on_notify: Callable[[str, bool], None],
    ) -> None:
        self.connection = connection
        self.pipeline = Pipeline(connection)
        self._selector = selector
        self._on_notify = on_notify
        self._job: Job | None = None
        self._sees_input = False
        self._fd = connection.fileno()  # kept: a broken connection no longer knows it
        self._events = selectors.EVENT_READ
        selector.register(self._fd, self._events, self._see_input)
        self._session = connection.info.backend_pid
        connection.add_notify_handler(
            lambda notify: on_notify(notify.payload, notify.pid == self._session)
        )

    @property
    def is_idle(self) -> bool:
        """Return whether a job can be started."""
        return self._job is None

    def start(self, job: Job) -> None:
        """Send a job, whose replies `collect` takes."""
        assert self._job is None
        self._job = job
        self.pipeline.send(job.statements, job.bounds)
        self._select_for_writing()

    def collect(self) -> bool:
        """Conclude the job if its replies have come; return whether it was committed.

        Notifications may come at any time. Raises what the job raises.
        """
        if self._sees_input:
            self._sees_input = False
            return self._receive()
        if self._job is not None:
            self.pipeline.check_time()
        return False

    def await_input(self) -> None:
        """Send more of the job, or wait a moment for replies."""
        self._sees_input = self.pipeline.await_input()

    def receive_notifications(self) -> None:
        """Take the notifications that were read together with a reply."""
        while (notify := self.connection.pgconn.notifies()) is not None:
            is_own = notify.be_pid == self._session
            self._on_notify(notify.extra.decode("utf-8", "replace"), is_own)

    def close(self) -> None:
        """Close the connection. The job is lost."""
        self._selector.unregister(self._fd)
        self.connection.close()
        job, self._job = self._job, None
        if job is not None:
            job.on_lost()

    def _see_input(self) -> None:
        self._sees_input = True

    def _receive(self) -> bool:
        job = self._job
        if job is None:
            self.pipeline.consume()
            self.receive_notifications()
            return False
        try:
            results = self.pipeline.receive()
        except StatementRefused as refused:
            self._job = None
            self._select_for_writing()
            self.receive_notifications()
            job.on_refused(refused)
            return False
        self._select_for_writing()
        if results is None:
            return False
        self._job = None
        try:
            job.on_committed(results)
        finally:
            self.receive_notifications()
        return True

    def _select_for_writing(self) -> None:
        """Select for writing only while there are unsent bytes."""
        events = selectors.EVENT_READ | (0 if self.pipeline.flush() else selectors.EVENT_WRITE)
        if self._events != events:
            self._selector.modify(self._fd, events, self._see_input)
            self._events = events
