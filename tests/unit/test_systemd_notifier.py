"""What a peer says to systemd, and how often."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from peers.database.deadlines import Bounds
from peers.peer.connections import Connections
from peers.peer.loop import _heartbeat_interval
from peers.peer.systemd import SystemdNotifier, watchdog_timeout
from peers.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

INFINITE = float("inf")


def test_a_drain_asks_systemd_for_the_time_that_it_needs(tmp_path: Path) -> None:
    """A drain that is longer than TimeoutStopSec is not cut short."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        notifier = SystemdNotifier(str(tmp_path / "notify"))
        notifier.stopping(600.0)
        notifier.close()
        fields = dict(line.split("=", 1) for line in systemd.recv(4096).decode().split("\n"))
    assert fields["STOPPING"] == "1"
    assert int(fields["EXTEND_TIMEOUT_USEC"]) > 600 * 1_000_000


@pytest.mark.parametrize(
    ("pid", "usec", "seconds"),
    [
        (None, None, INFINITE),
        (None, "60000000", 60.0),
        ("own", "500000", 0.5),
        ("1", "60000000", INFINITE),
        (None, "0", INFINITE),
        (None, "soon", INFINITE),
    ],
)
def test_the_watchdog_is_the_one_of_this_process(
    monkeypatch: pytest.MonkeyPatch, pid: str | None, usec: str | None, seconds: float
) -> None:
    """Return WatchdogSec of the unit, as systemd passes it on."""
    own = str(os.getpid()) if pid == "own" else pid
    for name, value in (("WATCHDOG_PID", own), ("WATCHDOG_USEC", usec)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert watchdog_timeout() == seconds


def test_heartbeats_come_in_time_for_the_watchdog_however_long_the_lease_is() -> None:
    """With a lease of an hour, a third of it would be far more than WatchdogSec."""
    assert _heartbeat_interval(timedelta(minutes=20), 60.0) == timedelta(seconds=20)
    assert _heartbeat_interval(timedelta(seconds=10), 60.0) == timedelta(seconds=10)
    assert _heartbeat_interval(timedelta(minutes=20), INFINITE) == timedelta(minutes=20)


def test_a_silent_database_is_noticed_before_the_watchdog_is_over() -> None:
    """The interval, then connecting, then a heartbeat without a reply: less than WatchdogSec."""
    connections = Connections(Settings(lease_timeout="1h"), 60.0)
    interval = _heartbeat_interval(timedelta(minutes=20), 60.0).total_seconds()
    wait = connections._heartbeat_bounds.answer
    assert interval + connections._connect_timeout + wait < 60.0
    assert connections._main_bounds == Bounds.of_main_loop(3600.0)
