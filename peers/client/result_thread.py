"""The thread that waits for results: one, with one connection, for all waits of a `Client`.

The thread polls, with a pause that grows, and a notification makes it poll at once. Behind a pooler
in transaction mode it only polls, because notifications do not arrive there.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import psycopg

from peers.client.records import task_not_found
from peers.client.statements import OUTCOMES, Request
from peers.client.transport import perform_in
from peers.database.backoff import Backoff
from peers.database.connection import is_connection_lost
from peers.errors import DatabaseUnreachable, PeersError

if TYPE_CHECKING:
    from peers.client.records import Outcome
    from peers.database.deadlines import BoundedConnection

_IDLE_SECONDS: Final = 5.0
_REGISTER_AGAIN_AFTER: Final = 20.0
"""Seconds; peers.await_results is valid for a minute."""
_ANSWER_WITHIN: Final = 30.0
_MOST_AT_ONCE: Final = 100
"""Tasks in one look: the result of each may have 1 MiB."""
_CLOSE_TIMEOUT: Final = 1.0
_LARGEST_ID: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class _Pauses:
    """The pause between two polls of a task: it grows from `first` to `longest`."""

    first: float
    longest: float
    growth: float


# A task that takes 10 s is then seen at most 2 s late when no notification comes.
_POLLING: Final = _Pauses(first=0.01, longest=1.0, growth=1.2)
_LISTENING: Final = _Pauses(first=0.25, longest=5.0, growth=2.0)


@dataclass(slots=True)
class _Awaited:
    """A task that is waited for."""

    futures: list[Future[Outcome]] = field(default_factory=list)
    pause: float = 0.0
    poll_at: float = 0.0
    registered_at: float = float("-inf")


class ResultThread:
    """Tells when tasks end. The thread and its connection exist only while they are needed.

    When the database is lost, results come later. Only a failure of the first connect is reported.
    """

    def __init__(self, connect: Callable[[], BoundedConnection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._new: list[tuple[int, Future[Outcome]]] = []
        self._thread: threading.Thread | None = None
        self._is_closed = False
        # only the thread uses these
        self._awaited: dict[int, _Awaited] = {}
        self._connection: BoundedConnection | None = None
        self._is_listening = False
        self._was_connected = False
        self._backoff = Backoff(cap=2.0)

    def wait_for(self, task_id: int) -> Future[Outcome]:
        """Return a future of the task's outcome. Cancel it to stop waiting. Raises TaskNotFound."""
        if not 0 < task_id <= _LARGEST_ID:
            raise task_not_found(task_id)  # the statement would fail, for all who wait
        future: Future[Outcome] = Future()
        with self._lock:
            if self._is_closed:
                raise PeersError("the client is closed", "Make another one.")
            self._new.append((task_id, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="peers results", daemon=True)
                self._thread.start()
            os.eventfd_write(self._wake, 1)
        return future

    def close(self) -> None:
        """Stop waiting: the futures that are left fail."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            thread = self._thread
            os.eventfd_write(self._wake, 1)
        if thread is not None:
            thread.join(_CLOSE_TIMEOUT)
        if thread is None or not thread.is_alive():
            os.close(self._wake)

    def _run(self) -> None:
        while True:
            try:
                if not self._take_new():
                    return
                if self._connection is None:
                    self._connection = self._open()
                self._poll()
                self._await_news(self._until_next_poll())
            except PeersError as error:
                self._handle(error)
            except psycopg.Error as error:
                is_lost = self._connection is None or self._connection.closed
                is_lost = is_lost or is_connection_lost(error)
                self._handle(DatabaseUnreachable(str(error)) if is_lost else PeersError(str(error)))
            except Exception as error:  # noqa: BLE001  # the callers would wait for ever
                self._handle(PeersError(f"waiting for results failed: {error!r}"))

    def _take_new(self) -> bool:
        """Take the new tasks to wait for; return False when the thread should end."""
        deadline = time.monotonic() + _IDLE_SECONDS
        while True:
            with self._lock:
                for task_id, future in self._new:
                    awaited = self._awaited.setdefault(task_id, _Awaited())
                    awaited.futures.append(future)
                    awaited.poll_at = 0.0
                self._new.clear()
                self._forget_cancelled()
                is_over = self._is_closed or (not self._awaited and time.monotonic() >= deadline)
                if is_over:
                    self._disconnect()
                    self._fail_all(PeersError("the client was closed", "Make another one."))
                    self._thread = None  # from here on another one may start
            if is_over:
                return False
            if self._awaited:
                return True
            self._await_news(max(0.0, deadline - time.monotonic()))

    def _forget_cancelled(self) -> None:
        for task_id, awaited in list(self._awaited.items()):
            awaited.futures = [each for each in awaited.futures if not each.cancelled()]
            if not awaited.futures:
                del self._awaited[task_id]

    def _open(self) -> BoundedConnection:
        connection = self._connect()
        connection.answer_within = _ANSWER_WITHIN
        try:
            # a pooler hands out process ids of its own
            [[pid]] = connection.execute("select pg_backend_pid()").fetchall()
            self._is_listening = pid == connection.info.backend_pid
            if self._is_listening:
                connection.execute("listen peers_results")
        except BaseException:
            connection.close()
            raise
        self._was_connected = True
        self._backoff.reset()
        for awaited in self._awaited.values():  # a notification may have been missed
            awaited.poll_at, awaited.registered_at = 0.0, float("-inf")
        return connection

    def _poll(self) -> None:
        now = time.monotonic()
        due = [task_id for task_id, awaited in self._awaited.items() if awaited.poll_at <= now]
        if not due or self._connection is None:
            return
        for start in range(0, len(due), _MOST_AT_ONCE):
            ids = due[start : start + _MOST_AT_ONCE]
            outcomes = {each.id: each for each in self._look(self._connection, ids)}
            for task_id in ids:
                outcome = outcomes.get(task_id)
                if outcome is None:
                    self._finish(task_id, task_not_found(task_id))
                elif outcome.has_ended:
                    self._finish(task_id, outcome)
        self._schedule([task_id for task_id in due if task_id in self._awaited], now)

    @staticmethod
    def _look(connection: BoundedConnection, ids: list[int]) -> list[Outcome]:
        return perform_in(connection, Request(OUTCOMES, {"ids": ids}))

    def _schedule(self, ids: list[int], now: float) -> None:
        """Set the time of the next poll of tasks that have not ended."""
        pauses = _LISTENING if self._is_listening else _POLLING
        unregistered = [
            task_id
            for task_id in ids
            if now - self._awaited[task_id].registered_at > _REGISTER_AGAIN_AFTER
        ]
        if self._is_listening and unregistered:
            self._register(unregistered)
        for task_id in ids:
            awaited = self._awaited[task_id]
            awaited.pause = min(pauses.longest, max(pauses.first, awaited.pause * pauses.growth))
            awaited.poll_at = now + awaited.pause
        if self._is_listening:
            for task_id in unregistered:
                # it may have ended between the poll and the registration
                if self._awaited[task_id].registered_at == float("-inf"):
                    self._awaited[task_id].poll_at = now
                self._awaited[task_id].registered_at = now

    def _register(self, ids: list[int]) -> None:
        assert self._connection is not None
        try:
            with self._connection.transaction():
                self._connection.execute("select peers.await_results(%s)", (ids,))
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction):
            self._is_listening = False  # polling needs no right and no function

    def _until_next_poll(self) -> float | None:
        if not self._awaited:
            return None
        first = min(awaited.poll_at for awaited in self._awaited.values())
        return max(0.0, first - time.monotonic())

    def _await_news(self, timeout: float | None) -> None:
        """Wait for a notification, a new task, or the timeout in seconds."""
        if timeout is None:
            return
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._connection is not None:
            self._take_notifications(self._connection)
            if any(awaited.poll_at == 0.0 for awaited in self._awaited.values()):
                return
            poll.register(self._connection.fileno(), select.POLLIN)
        poll.poll(timeout * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._connection is not None:
            self._take_notifications(self._connection)

    def _take_notifications(self, connection: BoundedConnection) -> None:
        for notify in connection.notifies(timeout=0):
            ids: Iterable[int] = map(int, filter(None, notify.payload.split(",")))
            for task_id in ids if notify.payload else list(self._awaited):
                if task_id in self._awaited:
                    self._awaited[task_id].poll_at = 0.0

    def _handle(self, error: PeersError) -> None:
        self._disconnect()
        is_temporary = isinstance(error, DatabaseUnreachable) and self._was_connected
        if not is_temporary:
            self._fail_all(error)
            return
        time.sleep(self._backoff.next())

    def _finish(self, task_id: int, outcome: Outcome | PeersError) -> None:
        for future in self._awaited.pop(task_id).futures:
            with contextlib.suppress(InvalidStateError):  # its caller has stopped waiting
                if isinstance(outcome, PeersError):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _fail_all(self, error: PeersError) -> None:
        for task_id in list(self._awaited):
            self._finish(task_id, error)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
