"""What handlers ask of the scheduler, answered outside of the main loop.

A graph of 150,000 tasks takes the database half a minute, and the main loop, which would wait for
it, holds the leases of all others. So two threads answer, each with a connection of its own: one
what is quick, one what is large, so that nobody's progress waits behind somebody's graph. Threads
and connections exist only while there is something to do, and a little longer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

import psycopg

from peers.client.transaction import LazyConnection, await_end
from peers.database.connection import Connection
from peers.errors import DatabaseUnreachable, PeersError
from peers.pool.lease import Lease

Answer: TypeAlias = bytes | PeersError
Answering: TypeAlias = Callable[[LazyConnection, "Request"], bytes]

_IDLE_SECONDS: Final = 2.0
_FAIL_FOR: Final = 1.0
_LARGE_BYTES: Final = 32 << 10
"""A graph of a few hundred tasks, which takes the database about 50 ms."""
_MOST_WAITING: Final = 512 << 20
"""Bytes of requests that wait in this process."""
_GIVE_UP_WITHIN: Final = 2.0
"""Seconds. The server looks for a cut connection twice a second, and then aborts."""

# A half-open connection must not keep a task's row locked, nor a cut one run on.
_ALWAYS: Final = {
    "idle_in_transaction_session_timeout": "5s",
    "client_connection_check_interval": "500ms",
}
_QUICK: Final = {"statement_timeout": "10s", "lock_timeout": "250ms"}
_LARGE: Final = {"statement_timeout": "15min", "lock_timeout": "1min"}


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What a handler asks; `reply` is called in the main loop, once.

    Not for a progress that a later one overtook.
    """

    peer_id: UUID
    lease: Lease
    verb: str
    body: bytes
    reply: Callable[[Answer], None]


class HandlerRequests:
    """The main loop's side: it takes requests, and has the answers delivered by its selector."""

    def __init__(
        self,
        connect: Callable[[], Connection],
        selector: selectors.BaseSelector,
        answering: Answering,
    ) -> None:
        self._selector = selector
        self._answers: queue.SimpleQueue[tuple[Request, Answer]] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        selector.register(self._bell, selectors.EVENT_READ, self._take_answers)
        self._quick = _Thread("requests", _Session(connect, _QUICK), answering, self._deliver)
        self._large = _Thread("large requests", _Session(connect, _LARGE), answering, self._deliver)

    def ask(self, request: Request) -> None:
        """Have a request answered."""
        thread = self._large if len(request.body) > _LARGE_BYTES else self._quick
        if thread is self._large and thread.waiting_bytes > _MOST_WAITING:
            request.reply(
                DatabaseUnreachable("too many submissions wait in this peer", "Try again.")
            )
            return
        try:
            thread.put(request)
        except RuntimeError as error:  # the machine has no room for another thread
            request.reply(
                DatabaseUnreachable(f"no thread can be started to answer: {error}", "Try again.")
            )

    def forget(self, leases: Collection[Lease]) -> None:
        """Give up what the handlers of these tasks asked: they were stopped, or have failed."""
        for thread in (self._quick, self._large):
            thread.forget(leases)

    def await_quiet(self) -> None:
        """Wait until what was given up is over in the database: its tasks can be released then."""
        for thread in (self._quick, self._large):
            thread.await_quiet(_GIVE_UP_WITHIN)

    def stop(self) -> None:
        """Answer nothing any more."""
        ended = [thread.stop(_GIVE_UP_WITHIN) for thread in (self._quick, self._large)]
        self._selector.unregister(self._bell)
        if all(ended):
            os.close(self._bell)

    def _deliver(self, request: Request, answer: Answer) -> None:
        """From a thread."""
        self._answers.put((request, answer))
        os.eventfd_write(self._bell, 1)

    def _take_answers(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        with contextlib.suppress(queue.Empty):
            while True:
                request, answer = self._answers.get_nowait()
                request.reply(answer)


class _Session:
    """Connects with these bounds. After a failure it fails at once for a moment.

    Else each of many handlers would wait for its own try while the database is away.
    """

    def __init__(self, connect: Callable[[], Connection], bounds: dict[str, str]) -> None:
        self._connect = connect
        self._bounds = _ALWAYS | bounds
        self._failure: PeersError | None = None
        self._again_at = 0.0

    def __call__(self) -> Connection:
        if self._failure is not None and time.monotonic() < self._again_at:
            raise type(self._failure)(self._failure.message, self._failure.hint)
        try:
            connection = self._connect()
        except PeersError as error:
            self._failure, self._again_at = error, time.monotonic() + _FAIL_FOR
            raise
        for name, value in self._bounds.items():
            # not every system can look for a cut connection
            with contextlib.suppress(psycopg.errors.InvalidParameterValue):
                connection.execute("select set_config(%s, %s, false)", (name, value))
        return connection


class _Thread:
    """Answers one request after the other, in a thread that ends when there is no more."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Connection],
        answering: Answering,
        deliver: Callable[[Request, Answer], None],
    ) -> None:
        self._name = name
        self._connection = LazyConnection(connect)
        self._answering = answering
        self._deliver = deliver
        self._changed = threading.Condition()
        self._waiting: dict[object, Request] = {}
        self._under_way: Request | None = None
        self._giving_up = False
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def waiting_bytes(self) -> int:
        """How much waits."""
        with self._changed:
            return sum(len(request.body) for request in self._waiting.values())

    def put(self, request: Request) -> None:
        """Line it up; of a task's progress only the latest counts. Raises RuntimeError."""
        latest = request.verb == "progress"
        with self._changed:
            if self._thread is None and not self._stopping:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            self._waiting[(request.lease, "progress") if latest else request] = request
            self._changed.notify_all()

    def forget(self, leases: Collection[Lease]) -> None:
        """Drop what these tasks asked, and cut off what is under way for one of them."""
        if self._thread is None:
            return
        gone = set(leases)
        with self._changed:
            for key, request in list(self._waiting.items()):
                if request.lease in gone:
                    del self._waiting[key]
                    self._deliver(request, DatabaseUnreachable("the task has ended meanwhile"))
            if self._under_way is not None and self._under_way.lease in gone:
                self._giving_up = True
                self._connection.cut()

    def await_quiet(self, patience: float) -> None:
        """Wait until nothing that was cut off is under way."""
        with self._changed:
            self._changed.wait_for(lambda: not self._giving_up, patience)

    def stop(self, patience: float) -> bool:
        """End the thread; answer whether it has ended."""
        with self._changed:
            self._stopping = True
            if self._under_way is not None:
                self._connection.cut()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(patience)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        while (request := self._next()) is not None:
            answer: Answer
            try:
                answer = self._answering(self._connection, request)
            except PeersError as error:
                answer = error
            except Exception as error:  # noqa: BLE001  # a handler that waits must hear something
                answer = PeersError(f"{request.verb}: {error!r}")
            if self._connection.was_cut:
                self._await_abort()
            self._deliver(request, answer)

    def _next(self) -> Request | None:
        with self._changed:
            self._under_way = None
            self._giving_up = False
            if self._connection.was_cut:  # too late: its request was over
                self._connection.renew()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._stopping, _IDLE_SECONDS)
            if self._stopping or not self._waiting:
                self._thread = None
                self._connection.close()
                return None
            self._under_way = self._waiting.pop(next(iter(self._waiting)))
            return self._under_way

    def _await_abort(self) -> None:
        """The connection was cut off; who waits for `await_quiet` wants the transaction to end."""
        self._connection.renew()
        if self._connection.transaction is not None:
            with contextlib.suppress(PeersError):
                await_end(self._connection, _GIVE_UP_WITHIN)
            self._connection.transaction = None
