"""Fork servers and the workers that come from them, with real processes and no database."""

from __future__ import annotations

import errno
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from peers import events
from peers.pool import fork_server
from peers.pool.durations import DurationEstimate
from peers.pool.environment import Environment
from peers.pool.outcome_listener import OutcomeListener
from peers.pool.pool import WorkerPool
from peers.pool.process import adopt_orphans
from tests.integration.test_worker_pool import open_descriptors, processes

PATIENCE = 60.0
APP = "tests.integration.app_prints"


@pytest.fixture
def selector() -> Iterator[selectors.DefaultSelector]:
    """A selector that is closed after the test."""
    with selectors.DefaultSelector() as made:
        yield made


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The log events of lost fork servers."""
    told = Mock()
    monkeypatch.setattr(events, "fork_server_lost", told)
    return told


class Workers:
    """A pool whose workers are forked, and its main loop."""

    def __init__(self, selector: selectors.DefaultSelector, slots: int = 1) -> None:
        self.selector = selector
        self.pool = WorkerPool(
            APP,
            ("text", "error"),
            Environment(slots),
            selector,
            DurationEstimate(),
            Mock(OutcomeListener),
            preload=True,
        )
        self.pool.start(PATIENCE)
        self.until(lambda: len(self.pids()) == slots)

    def pids(self) -> list[int]:
        """The pids of the workers in the pool's selector."""
        return [process.pid for process in processes(self.selector)]

    def server(self) -> int:
        """The pid of the fork server."""
        [server] = self.pool._starter._preload._servers.values()
        return server.pid

    def turn(self) -> None:
        """Do what one turn of the main loop does."""
        within = min(self.pool.next_deadline() - time.monotonic(), 0.05)
        for key, _ in self.selector.select(max(0.0, within)):
            key.data()
        self.pool.tick(time.monotonic())

    def until(self, holds: Callable[[], bool]) -> None:
        """Make turns until the condition holds."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < give_up
            self.turn()

    def until_ready(self) -> None:
        """Make turns until a worker has started and is ready."""
        self.until(lambda: self.pids() != [])
        self.until(lambda: all(worker.ready for worker in self.pool._workers))

    def kill_worker(self) -> int:
        """Kill the only worker, and wait until the pool knows."""
        [pid] = self.pids()
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: pid not in self.pids())
        return pid


@pytest.fixture
def workers(selector: selectors.DefaultSelector) -> Iterator[Workers]:
    """One worker."""
    made = Workers(selector)
    yield made
    made.pool.stop()
    assert list(selector.get_map()) == []


def test_what_an_import_prints_is_printed_once(
    selector: selectors.DefaultSelector,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though each fork has a copy of the unwritten buffer, and writes it when it exits."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    made = Workers(selector, slots=3)
    made.pool.stop()
    assert capfd.readouterr().out == "imported\n"


def test_a_fork_server_that_does_not_answer_is_given_up(
    workers: Workers, lost: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is started without it, and nothing waits for the request."""
    monkeypatch.setattr(fork_server, "REPLY_WITHIN", 0.2)
    server = workers.server()
    os.kill(server, signal.SIGSTOP)
    workers.kill_worker()
    workers.until_ready()
    assert "0.2 s" in lost.call_args.kwargs["reason"]
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


def test_a_fork_server_that_dies_with_requests(workers: Workers, lost: Mock) -> None:
    """The workers are started without it."""
    server = workers.server()
    os.kill(server, signal.SIGSTOP)
    workers.kill_worker()
    workers.until(lambda: workers.pool._starter.requested != [])
    os.kill(server, signal.SIGKILL)
    workers.until(lambda: workers.pids() != [])
    assert "SIGKILL" in lost.call_args.kwargs["reason"]


@pytest.mark.parametrize("place", ["socket.socketpair", "os.memfd_create", "os.pidfd_open"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN, errno.ENOMEM])
def test_a_pool_survives_a_machine_without_room_for_a_fork(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, lost: Mock, place: str, number: int
) -> None:
    """Nothing stays open, and a worker starts as soon as there is room."""
    monkeypatch.setattr("peers.pool.starter._SHORTEST_WAIT", 0.01)
    workers.kill_worker()
    workers.until_ready()
    before = open_descriptors()
    refusal = Mock(side_effect=OSError(number, os.strerror(number)))
    with monkeypatch.context() as patched:
        patched.setattr(f"peers.pool.process.{place}", refusal)
        gone = workers.kill_worker()
        for _ in range(3):
            called = refusal.call_count
            workers.pool._starter.start_at = 0.0
            workers.until(lambda: refusal.call_count > called)  # noqa: B023
            assert workers.pids() == []
    workers.pool._starter.start_at = 0.0
    workers.until_ready()
    assert gone not in workers.pids()
    assert open_descriptors() == before
    assert lost.call_count == 0


def test_a_fork_that_is_not_our_child_is_not_used_as_a_worker(
    workers: Workers, lost: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kernel does not make us its parent it is killed, and workers import the app."""
    monkeypatch.setattr("peers.pool.fork_server.adopt_orphans", Mock())
    adopt_orphans(False)
    workers.kill_worker()
    workers.until(lambda: workers.pids() != [])
    assert "parent" in lost.call_args.kwargs["reason"]


@pytest.mark.usefixtures("workers")
def test_the_peer_does_not_adopt_other_orphans() -> None:
    """A process that a handler leaves behind gets another parent, as usual."""
    shell = ["sh", "-c", "sleep 1000 >&- 2>&- & echo $!"]
    orphan = int(subprocess.run(shell, stdout=subprocess.PIPE, check=True).stdout)
    try:
        fields = Path(f"/proc/{orphan}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[1]) != os.getpid()
    finally:
        os.kill(orphan, signal.SIGKILL)


# ------------------------------------------------------------------------------ what can be forked


def why_not(code: str, **variables: str) -> str:
    """The reason not to fork after this code."""
    lines = [
        "from peers.worker.forkable import open_files, reason_not_to_fork",
        "before = open_files()", code, "print(reason_not_to_fork(before), flush=True)",
        "import os; os._exit(0)",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env={**os.environ, **variables},
        stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import json, asyncio, ssl, uuid, concurrent.futures",
        "import sklearn.ensemble, pyarrow.dataset, httpx",
        "log = open('/dev/null', 'a')",
        "import threading; t = threading.Thread(target=int); t.start(); t.join()",
        "import subprocess; subprocess.run(['true'])",
        "import logging; logging.basicConfig()",
        "import os; copy = os.dup(2)",
    ],
)
def test_code_after_which_a_fork_works(code: str) -> None:
    """Definitions, things that have ended, and thread pools that handle forks themselves."""
    assert why_not(code, OPENBLAS_NUM_THREADS="4", OMP_NUM_THREADS="4") == "None"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import threading; threading.Timer(9, int).start()", "thread"),
        ("import _thread, time; _thread.start_new_thread(time.sleep, (9,))", "a library"),
        ("import socket; s = socket.socket()", "socket"),
        ("import os; p = os.pipe()", "pipe"),
        ("import select; e = select.epoll()", "eventpoll"),
        ("import sqlite3, tempfile; c = sqlite3.connect(tempfile.mktemp());"
         "c.execute('create table t (a)')", "opened"),
        ("f = open('/etc/hosts')", "hosts"),
        ("import os; os.fork() or os._exit(0)", "process"),
        ("import concurrent.futures as c; e = c.ThreadPoolExecutor(1); e.submit(int)", "thread"),
    ],
)  # fmt: skip
def test_code_after_which_a_fork_would_lose_or_share_something(code: str, reason: str) -> None:
    """The reason names it."""
    assert reason in why_not(code)
