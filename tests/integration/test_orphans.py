"""The parent's side of the process that kills what workers leave behind."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
from collections.abc import Iterator
from unittest.mock import Mock

import pytest

from peers import events
from peers.pool import orphans
from peers.pool.orphans import OrphanKiller

PATIENCE = 60.0


@pytest.fixture
def selector() -> Iterator[selectors.DefaultSelector]:
    """A selector that is closed after the test."""
    with selectors.DefaultSelector() as made:
        yield made


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """The log events of a missing process; another may be started at once."""
    monkeypatch.setattr(orphans, "_RESTART_AFTER", 0.0)
    told = Mock()
    monkeypatch.setattr(events, "orphan_killer_missing", told)
    return told


@pytest.fixture
def group() -> Iterator[subprocess.Popen[bytes]]:
    """A process group."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as leader:
        yield leader
        leader.kill()


def turn(selector: selectors.DefaultSelector) -> None:
    """Make one turn of the main loop."""
    for key, _ in selector.select(PATIENCE):
        key.data()


def test_a_peer_survives_without_room_for_the_process(
    selector: selectors.DefaultSelector,
    missing: Mock,
    group: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No process, no descriptor, no room in the selector: each is logged, and the next process
    knows all groups.
    """
    killer = OrphanKiller(selector)
    for owner, name in ((subprocess, "Popen"), (os, "pidfd_open"), (selector, "register")):
        with monkeypatch.context() as broken:
            broken.setattr(owner, name, Mock(side_effect=BlockingIOError("no room")))
            killer.ensure()
    killer.began(group.pid)
    assert [call.kwargs["reason"] for call in missing.call_args_list] == ["no room"] * 3
    killer.ensure()
    killer.close()
    assert group.wait(PATIENCE) == -signal.SIGKILL
    assert list(selector.get_map()) == []


def test_a_process_that_does_not_read_is_replaced(
    selector: selectors.DefaultSelector, missing: Mock, group: subprocess.Popen[bytes]
) -> None:
    """A full pipe does not block the peer. The next process gets the current groups."""
    killer = OrphanKiller(selector)
    killer.ensure()
    [key] = selector.get_map().values()
    assert killer.pid is not None
    os.kill(killer.pid, signal.SIGSTOP)
    killer.began(group.pid)
    for number in range(1 << 22, (1 << 22) + 10_000):
        killer.began(number)
        killer.ended(number)
    turn(selector)
    assert missing.call_count == 1
    assert key.fd not in selector.get_map()
    killer.ensure()
    killer.close()
    assert group.wait(PATIENCE) == -signal.SIGKILL
