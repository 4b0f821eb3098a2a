"""What handlers ask is answered outside of the main loop, and by nobody when nobody asks."""

from __future__ import annotations

import selectors
import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import Mock
from uuid import uuid4

import pytest

from peers.client.transaction import LazyConnection
from peers.database.connection import Connection
from peers.database.rows import Claimed
from peers.errors import BadTask, DatabaseUnreachable
from peers.peer import handler_requests
from peers.peer.handler_requests import Answer, HandlerRequests, Request
from peers.pool.durations import DurationEstimate
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue

PATIENCE = 60.0
LARGE = b"x" * (1 << 20)


class Loop:
    """As much of a main loop as answers need, and handlers whose answers are kept."""

    def __init__(self, answering: Callable[[LazyConnection, Request], bytes]) -> None:
        self.selector = selectors.DefaultSelector()
        self.refuses: Exception | None = None
        self.connected = 0
        self.answers: dict[str, Answer] = {}
        self.requests = HandlerRequests(self._connect, self.selector, answering)

    def _connect(self) -> Connection:
        self.connected += 1
        if self.refuses is not None:
            raise self.refuses
        connection = Mock(spec=Connection)
        connection.fileno.return_value = 0
        return connection

    def ask(self, name: str, lease: Lease, verb: str = "parents", body: bytes = b"null") -> None:
        """A handler asks."""

        def reply(answer: Answer) -> None:
            assert threading.current_thread() is threading.main_thread()
            assert name not in self.answers, "twice"
            self.answers[name] = answer

        self.requests.ask(Request(uuid4(), lease, verb, body, reply))

    def until(self, holds: Callable[[], object]) -> None:
        """Turn until that is so."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < give_up, "waited in vain"
            for key, _ in self.selector.select(0.05):
                key.data()


class Database:
    """Answers what it is asked; what waits at its gate takes long."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.seen: list[tuple[str, bytes]] = []

    def answer(self, connection: LazyConnection, request: Request) -> bytes:
        """What a request gets."""
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
    """That of a test."""
    return Database()


@pytest.fixture
def loop(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """A loop whose threads end soon."""
    monkeypatch.setattr(handler_requests, "_IDLE_SECONDS", 0.05)
    made = Loop(database.answer)
    yield made
    database.gate.set()
    made.requests.stop()
    made.selector.close()


def a_lease() -> Lease:
    """A task that runs."""
    task = Claimed(1, uuid4(), 1, "a", b"{}", None, 100)
    return Lease(task, LocalQueue("default", 1, DurationEstimate(), {}), 0.0)


def threads() -> list[str]:
    """Those that answer requests."""
    return [thread.name for thread in threading.enumerate() if "requests" in thread.name]


def test_what_is_quick_does_not_wait_behind_what_is_large(loop: Loop, database: Database) -> None:
    """Small requests are answered, however many, while a graph is under way and another waits."""
    for name in ("first", "second"):
        loop.ask(name, a_lease(), "submit_graph", LARGE)
    for n in range(100):
        loop.ask(f"quick {n}", a_lease())
    loop.until(lambda: len(loop.answers) == 100)
    assert not {"first", "second"} & set(loop.answers)
    database.gate.set()
    loop.until(lambda: len(loop.answers) == 102)
    assert set(loop.answers.values()) == {b"null", LARGE[:10]}


def test_threads_and_connections_are_there_only_while_they_are_needed(
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


def test_of_a_progress_that_is_told_again_and_again_only_the_latest_waits(
    loop: Loop, database: Database
) -> None:
    """A handler that tells it in a tight loop must not fill its peer's memory."""
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
def test_what_a_stopped_handler_asked_is_given_up(
    loop: Loop, database: Database, verb: str
) -> None:
    """What waits is not begun, what is under way is cut off; whoever still listens (a thread that
    an async handler left behind) is told, and others' requests go on.
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


def test_quiet_is_when_the_transaction_that_was_cut_off_is_over(
    loop: Loop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as soon as the connection is closed: until the server notices, the task is locked."""
    aborting, aborted = threading.Event(), threading.Event()

    def await_end(*_: object) -> None:
        aborting.set()
        assert aborted.wait(PATIENCE)

    monkeypatch.setattr(handler_requests, "await_end", await_end)
    monkeypatch.setattr(handler_requests, "_GIVE_UP_WITHIN", PATIENCE)
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


def test_every_request_gets_one_answer_whatever_goes_wrong(loop: Loop) -> None:
    """Errors of ours as they are, and a fault of ours as an error too: nobody waits for ever, and
    what comes next is answered.
    """
    for name in ("bad", "odd", "parents"):
        loop.ask(name, a_lease(), name)
    loop.until(lambda: len(loop.answers) == 3)
    assert str(loop.answers["bad"]) == "it makes no sense"
    assert "ZeroDivisionError" in str(loop.answers["odd"])
    assert loop.answers["parents"] == b"null"


def test_without_a_thread_the_loop_goes_on(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no room for another thread costs the handler an error, nobody else."""
    with monkeypatch.context() as broken:
        broken.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("no thread")))
        loop.ask("first", a_lease())
        assert isinstance(loop.answers["first"], DatabaseUnreachable)
    loop.ask("second", a_lease())
    loop.until(lambda: "second" in loop.answers)
    assert loop.answers["second"] == b"null"


def test_while_the_database_is_away_nobody_waits_for_his_own_try(loop: Loop) -> None:
    """One try tells all that ask within a moment; then it is tried again."""
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


def test_more_than_memory_should_hold_is_refused(
    loop: Loop, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is bounded, and who comes then may try again."""
    monkeypatch.setattr(handler_requests, "_MOST_WAITING", len(LARGE))
    for n in range(4):
        loop.ask(f"{n}", a_lease(), "submit_graph", LARGE)
        loop.until(lambda: database.seen)
    loop.until(lambda: "3" in loop.answers)
    assert isinstance(loop.answers["3"], DatabaseUnreachable)
    database.gate.set()
    loop.until(lambda: len(loop.answers) == 4)
    assert [loop.answers[f"{n}"] for n in range(3)] == [LARGE[:10]] * 3
