"""The worker pool with real worker processes and no database."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import resource
import selectors
import signal
from collections import Counter
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from peers.pool.durations import DurationEstimate
from peers.pool.environment import Environment
from peers.pool.isolation import WorkerRole
from peers.pool.outcome_listener import OutcomeListener
from peers.pool.pool import WorkerPool
from peers.pool.process import WorkerProcess

PATIENCE = 60.0


@pytest.fixture
def selector() -> Iterator[selectors.DefaultSelector]:
    """A selector that is closed after the test."""
    with selectors.DefaultSelector() as made:
        yield made


def processes(selector: selectors.DefaultSelector) -> list[WorkerProcess]:
    """The worker processes in the pool's selector."""
    watched = [key.fileobj for key in selector.get_map().values()]
    return [process for process in watched if isinstance(process, WorkerProcess)]


@pytest.mark.parametrize("death_first", [True, False])
def test_an_exit_and_the_last_messages_may_be_handled_in_any_order(
    selector: selectors.DefaultSelector, death_first: bool
) -> None:
    """Both are ready in one turn. Whichever is handled first, the pool starts a new worker."""
    pool = WorkerPool(
        "tests.e2e.app_batches",
        ("text", "error"),
        Environment(),
        selector,
        DurationEstimate(),
        Mock(OutcomeListener),
    )
    pool.start(PATIENCE)
    try:
        [victim] = processes(selector)
        os.kill(victim.pid, signal.SIGKILL)
        os.waitid(os.P_PIDFD, victim.pidfd, os.WEXITED | os.WNOWAIT)
        ready = [key for key, _ in selector.select(PATIENCE)]
        assert {key.fileobj for key in ready} == {victim, victim.pidfd}
        for key in sorted(ready, key=lambda key: (key.fileobj is victim) == death_first):
            key.data()
        assert processes(selector) == []
        pool.tick(float("inf"))
        assert victim not in processes(selector)
        assert len(processes(selector)) >= 1
    finally:
        pool.stop()


def open_descriptors() -> int:
    """How many descriptors this process has open; looking for them opens none.

    Their numbers do not matter: workers may get them in another order.
    """
    gc.collect()  # otherwise it may close what earlier tests left, between two counts
    found = set()
    for fd in range(1024):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_GETFD)
            found.add(fd)
    return len(found)


@pytest.mark.parametrize(
    "place", ["socket.socketpair", "os.memfd_create", "subprocess.Popen", "os.pidfd_open"]
)
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN, errno.ENOMEM])
def test_a_pool_survives_a_machine_without_room_for_a_worker(
    selector: selectors.DefaultSelector, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    """When a worker cannot be started, whatever is refused, the pool leaves nothing behind, waits
    longer each time, and starts one as soon as there is room.
    """
    pool = WorkerPool(
        "tests.e2e.app_batches",
        ("text", "error"),
        Environment(),
        selector,
        DurationEstimate(),
        Mock(OutcomeListener),
    )
    pool._isolated["default"] = Counter({WorkerRole.ISOLATED_SYNC: 1})  # it wants a worker
    pool._orphans.ensure()
    before = open_descriptors()
    with monkeypatch.context() as patched:
        refusal = OSError(number, os.strerror(number))
        patched.setattr(f"peers.pool.process.{place}", Mock(side_effect=refusal))
        for _ in range(3):
            pool.tick(float("inf"))
            assert processes(selector) == []
            assert open_descriptors() == before
        assert pool.next_deadline() < float("inf")
    pool.tick(float("inf"))
    try:
        assert len(processes(selector)) == 1
        pool.kill_all()
        pool.reap_all()
        assert open_descriptors() == before
    finally:
        pool.stop()


def test_a_pool_survives_without_any_descriptor_left(selector: selectors.DefaultSelector) -> None:
    """At the real limit, at each number of descriptors that are left: nothing is raised, and
    nothing stays open.
    """
    pool = WorkerPool(
        "tests.e2e.app_batches",
        ("text", "error"),
        Environment(),
        selector,
        DurationEstimate(),
        Mock(OutcomeListener),
    )
    pool._isolated["default"] = Counter({WorkerRole.ISOLATED_SYNC: 1})

    def descriptors() -> int:
        """Without the pipe and pidfd of the process that cleans up: it may have started."""
        return open_descriptors() - (0 if pool._orphans.pid is None else 2)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(12)]
    highest = max(held)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        for _ in range(8):
            before = descriptors()
            pool.tick(float("inf"))
            if processes(selector):
                break
            assert descriptors() == before
            os.close(held.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in held:
            os.close(fd)
        pool.stop()
