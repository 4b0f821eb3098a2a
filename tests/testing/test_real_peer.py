"""A real peer beside a test."""

from __future__ import annotations

import os

import pytest

import peers
from peers import ConfigError, PeersError, TaskFailed
from peers.testing import Database, running_peer

_APP = "tests.testing.app_for_peer"


def test_tasks_run_in_processes_of_their_own(database: Database) -> None:
    """Also one that ends its process."""
    pid, crash = peers.submit("pid"), peers.submit("crash")
    with running_peer(_APP, queues={"default": 2}) as peer:
        peer.wait_until_idle("60s")
        assert peers.result(pid, 0) not in (os.getpid(), peer.process.pid)
        with pytest.raises(TaskFailed):
            peers.result(crash, 0)
        assert "worker" in peer.log
        elsewhere = peers.submit("nobody")
        with pytest.raises(
            TimeoutError, match=f"task {elsewhere}, nobody, is still ready: .*no live"
        ):
            peer.wait_until_idle(0)
    assert peer.process.returncode == 0
    assert database.client.get(elsewhere).state == "ready"


@pytest.mark.usefixtures("database")
def test_a_peer_that_does_not_start_says_why() -> None:
    """A misspelt app, say."""
    peers.submit("pid")
    with pytest.raises(PeersError, match="no_such_module"), running_peer("no_such_module") as peer:
        peer.wait_until_idle()


def test_a_peer_needs_a_database_of_a_test() -> None:
    """What the settings name may be in use."""
    with pytest.raises(ConfigError, match="no test database"), running_peer(_APP):
        pass
