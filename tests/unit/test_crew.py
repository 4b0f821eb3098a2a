"""The crew's bookkeeping, with real worker processes and no database."""

from __future__ import annotations

import os
import selectors
import signal
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from peers.pace import Pace
from peers.workers.crew import Crew
from peers.workers.environment import Environment
from peers.workers.process import WorkerProcess
from peers.workers.sink import Sink

PATIENCE = 60.0


@pytest.fixture
def selector() -> Iterator[selectors.DefaultSelector]:
    """Closed in the end."""
    with selectors.DefaultSelector() as made:
        yield made


def processes(selector: selectors.DefaultSelector) -> list[WorkerProcess]:
    """Those that the crew listens to."""
    watched = [key.fileobj for key in selector.get_map().values()]
    return [process for process in watched if isinstance(process, WorkerProcess)]


@pytest.mark.parametrize("death_first", [True, False])
def test_a_death_and_what_the_socket_still_says_may_come_in_any_order(
    selector: selectors.DefaultSelector, death_first: bool
) -> None:
    """Both are ready in one turn; whichever is taken first, the crew goes on with a new worker."""
    crew = Crew(
        "tests.peers.app_batches", ("text", "error"), Environment(), selector, Pace(), Mock(Sink)
    )
    crew.start(PATIENCE)
    try:
        [victim] = processes(selector)
        os.kill(victim.pid, signal.SIGKILL)
        os.waitid(os.P_PIDFD, victim.pidfd, os.WEXITED | os.WNOWAIT)
        ready = [key for key, _ in selector.select(PATIENCE)]
        assert {key.fileobj for key in ready} == {victim, victim.pidfd}
        for key in sorted(ready, key=lambda key: (key.fileobj is victim) == death_first):
            key.data()
        assert processes(selector) == []
        crew.tick(float("inf"))
        assert victim not in processes(selector)
        assert len(processes(selector)) >= 1
    finally:
        crew.stop()
