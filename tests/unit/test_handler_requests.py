"""Requests of handlers: executed outside of the main loop, by threads that exist while needed."""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import Mock
from uuid import uuid4

import pytest

from peers.client.transaction import LazyConnection
from peers.database.deadlines import BoundedConnection
from peers.errors import BadTask, DatabaseUnreachable
from peers.peer import handler_requests
from peers.peer.handler_requests import HandlerRequests, Reply, Request
from peers.pool.durations import DurationEstimate
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue
from tests.support import claims

PATIENCE = 60.0
LARGE = b"x" * (1 << 20)


class Loop:
    """A small main loop, and handlers whose replies are kept."""

    def __init__(self, answering: Callable[[LazyConnection, Request], bytes]) -> None:
        self.selector = selectors.DefaultSelector()
        self.refuses: Exception | None = None
        self.connected = 0
        self.answers: dict[str, Reply] = {}
        self.requests = HandlerRequests(self._connect, self.selector, answering)

    def _connect(self) -> BoundedConnection:
        self.connected += 1
        if self.refuses is not None:
            raise self.refuses
        connection = Mock(spec=BoundedConnection)
        connection.fileno.return_value = 0
        return connection

    def ask(self, name: str, lease: Lease, verb: str = "parents", body: bytes = b"null") -> None:
        """Submit a request of a handler."""

        def reply(answer: Reply) -> None:
            assert threading.current_thread() is threading.main_thread()
            assert name not in self.answers, "twice"
            self.answers[name] = answer

        self.requests.submit(Request(uuid4(), lease, verb, body, reply))

    def until(self, holds: Callable[[], object]) -> None:
        """Make turns until that holds."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < give_up, "waited in vain"
            for key, _ in self.selector.select(0.05):
                key.data()


class Database:
    """A database that replies. Some requests wait at its gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.seen: list[tuple[str, bytes]] = []

    def answer(self, connection: LazyConnection, request: Request) -> bytes:
        """Execute a request."""
        connection.get()
        self.seen.append((request.verb, request.body[:10]))
        if request.verb == "begins":
            connection.transaction = "7"
        if request.verb in ("submit_graph", "waits", "begins"):
            assert self.gate.wait(PATIENCE)
            connection.get()  # raises if it was cut off meanwhile
        if request.verb == "odd":
            raise ZeroDivisionError
        if request.verb == "bad":
            raise BadTask("it makes no sense")
        return request.body[:10]


@pytest.fixture
def database() -> Database:
    """Make a database."""
    return Database()


@pytest.fixture
def loop(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """Make a loop whose threads end soon."""
    monkeypatch.setattr(handler_requests, "_IDLE_SECONDS", 0.05)
    made = Loop(database.answer)
    yield made
    database.gate.set()
    made.requests.stop()
    made.selector.close()


def a_lease() -> Lease:
    """Make the lease of a running task."""
    return claims.a_lease(LocalQueue("default", 1, DurationEstimate(), {}), "a")


def threads() -> list[str]:
    """List the threads that execute requests."""
    return [thread.name for thread in threading.enumerate() if "requests" in thread.name]


def test_small_requests_do_not_wait_behind_large_ones(loop: Loop, database: Database) -> None:
    """Many small requests get replies while one graph is running and another waits."""
    for name in ("first", "second"):
        loop.ask(name, a_lease(), "submit_graph", LARGE)
    for n in range(100):
        loop.ask(f"quick {n}", a_lease())
    loop.until(lambda: len(loop.answers) == 100)
    assert not {"first", "second"} & set(loop.answers)
    database.gate.set()
    loop.until(lambda: len(loop.answers) == 102)
    assert set(loop.answers.values()) == {b"null", LARGE[:10]}


def test_threads_and_connections_exist_only_while_they_are_needed(
    loop: Loop, database: Database
) -> None:
    """An idle peer has neither; each comes back when it is needed again."""
    assert threads() == []
    database.gate.set()
    for round_ in (1, 2):
        loop.ask(f"quick {round_}", a_lease())
        loop.ask(f"large {round_}", a_lease(), "submit_graph", LARGE)
        loop.until(lambda: len(loop.answers) == 2 * round_)  # noqa: B023
        loop.until(lambda: threads() == [])
        assert loop.connected == 2 * round_


def test_a_newer_progress_replaces_one_that_waits(loop: Loop, database: Database) -> None:
    """A handler that reports it in a tight loop must not fill its peer's memory."""
    loop.ask("before", a_lease(), "waits")
    mine, other = a_lease(), a_lease()
    loop.until(lambda: database.seen)
    for n in range(1000):
        loop.ask(f"mine {n}", mine, "progress", b"%d" % n)
        loop.ask(f"other {n}", other, "progress", b"%d" % -n)
    database.gate.set()
    loop.until(lambda: len(loop.answers) == 3)
    assert database.seen[1:] == [("progress", b"999"), ("progress", b"-999")]


@pytest.mark.parametrize("verb", ["parents", "submit_graph"])
def test_requests_of_a_stopped_handler_are_aborted(
    loop: Loop, database: Database, verb: str
) -> None:
    """A waiting request does not start, and a running one is cut off. It gets a reply all the same
    (a thread of an async handler may wait for it), and requests of other tasks go on.
    """
    stopped, other = a_lease(), a_lease()
    loop.ask("under way", stopped, "submit_graph", LARGE)
    loop.until(lambda: database.seen)
    loop.ask("behind", stopped, verb, LARGE)
    loop.ask("other", other, verb, LARGE)
    loop.requests.forget([stopped])
    database.gate.set()
    loop.until(lambda: len(loop.answers) == 3)
    assert isinstance(loop.answers["under way"], DatabaseUnreachable)
    assert isinstance(loop.answers["behind"], DatabaseUnreachable)
    assert loop.answers["other"] == LARGE[:10]
    assert len(database.seen) == 2
    loop.requests.await_quiet()


def test_quiet_means_that_the_aborted_transaction_has_ended(
    loop: Loop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the connection is not enough: until the server notices, the task is locked."""
    aborting, aborted = threading.Event(), threading.Event()

    def await_end(*_: object) -> None:
        aborting.set()
        assert aborted.wait(PATIENCE)

    monkeypatch.setattr(handler_requests, "await_end", await_end)
    monkeypatch.setattr(handler_requests, "_ABORT_WITHIN", PATIENCE)
    lease = a_lease()
    loop.ask("it", lease, "begins")
    loop.until(lambda: database.seen)
    loop.requests.forget([lease])
    database.gate.set()
    assert aborting.wait(PATIENCE)
    waiting = threading.Thread(target=loop.requests.await_quiet)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    aborted.set()
    waiting.join(PATIENCE)
    assert not waiting.is_alive()


def test_every_request_gets_one_reply_whatever_goes_wrong(loop: Loop) -> None:
    """Errors of Peers are passed on, and bugs as errors too: no handler waits for ever, and the
    next request gets its reply.
    """
    for name in ("bad", "odd", "parents"):
        loop.ask(name, a_lease(), name)
    loop.until(lambda: len(loop.answers) == 3)
    assert str(loop.answers["bad"]) == "it makes no sense"
    assert "ZeroDivisionError" in str(loop.answers["odd"])
    assert loop.answers["parents"] == b"null"


def test_the_loop_goes_on_when_no_thread_can_start(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler gets an error, and other handlers get their replies."""
    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no thread")))
        loop.ask("first", a_lease())
        assert isinstance(loop.answers["first"], DatabaseUnreachable)
    loop.ask("second", a_lease())
    loop.until(lambda: "second" in loop.answers)
    assert loop.answers["second"] == b"null"


def test_one_failed_try_to_connect_is_enough_for_all_requests_of_a_moment(loop: Loop) -> None:
    """Requests within a moment fail with it. Later ones try again."""
    loop.refuses = DatabaseUnreachable("it is away")
    for n in range(50):
        loop.ask(f"first {n}", a_lease())
    loop.until(lambda: len(loop.answers) == 50)
    assert loop.connected == 1
    assert {str(answer) for answer in loop.answers.values()} == {"it is away"}
    loop.refuses = None
    names = iter(range(1000))

    def answered() -> bool:
        name = f"again {next(names)}"
        loop.ask(name, a_lease())
        loop.until(lambda: name in loop.answers)
        return loop.answers[name] == b"null"

    loop.until(answered)


def test_requests_beyond_the_limit_of_memory_are_refused(
    loop: Loop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of waiting requests is limited. A refused handler may try again."""
    monkeypatch.setattr(handler_requests, "_WAITING_BYTES_MAX", len(LARGE))
    for n in range(4):
        loop.ask(f"{n}", a_lease(), "submit_graph", LARGE)
        loop.until(lambda: database.seen)
    loop.until(lambda: "3" in loop.answers)
    assert isinstance(loop.answers["3"], DatabaseUnreachable)
    database.gate.set()
    loop.until(lambda: len(loop.answers) == 4)
    assert [loop.answers[f"{n}"] for n in range(3)] == [LARGE[:10]] * 3
