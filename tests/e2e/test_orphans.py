"""What handlers start does not outlive their peer, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peers.pool import kill_orphans
from tests.e2e.harness import PeerProcess, Stage, group_members, until, workers_end

APP = "tests.e2e.app_programs"
SLEEPERS = 4


def sleepers(group: int) -> list[int]:
    """The programs at the ends of what the handler started."""
    found = []
    for pid in group_members(group):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text() == "sleep\n":
                found.append(pid)
    return found


def working(stage: Stage, **options: str) -> tuple[PeerProcess, int, int]:
    """A peer that runs the handler, its task, and the group that its worker leads."""
    peer = stage.peer(APP, lease_timeout="30s", drain_timeout="1ms")
    task_id = stage.submit("waits.for.programs", {}, **options)
    stage.until_started(task_id)
    [started] = stage.started(task_id)
    until(lambda: len(sleepers(started.pid)) == SLEEPERS, "all of the handler's programs")
    return peer, task_id, started.pid


def until_gone(group: int) -> None:
    """Until nothing of the group lives."""
    until(lambda: group_members(group) == [], f"the end of group {group}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_what_a_handler_started_ends_with_a_peer_that_is_killed(
    stage: Stage, number: signal.Signals
) -> None:
    """A program that it waits for, one behind a shell and one whose parent is gone: all end with
    the worker; so does the process that sees to it.
    """
    peer, _, group = working(stage)
    killers = peer.orphan_killers()
    peer.send(number)
    peer.wait()
    until_gone(group)
    workers_end(killers)
    assert len(killers) == 1


def test_what_a_handler_started_ends_with_a_peer_that_is_stopped(stage: Stage) -> None:
    """SIGTERM, and a drain that is too short for it: nothing is left."""
    peer, _, group = working(stage)
    killers = peer.orphan_killers()
    assert peer.terminate() == 0
    until_gone(group)
    workers_end(killers, deadline=0.0)


def test_what_a_handler_started_ends_with_its_worker_alone(stage: Stage) -> None:
    """A timeout kills the worker's group and no other process of the peer."""
    peer, task_id, group = working(stage, timeout="2 s")
    stage.until_state("dead", task_id)
    until_gone(group)
    assert len(peer.orphan_killers()) == 1
    assert peer.process.poll() is None


def test_signals_to_everything_of_the_peer_do_not_end_its_orphan_killer(stage: Stage) -> None:
    """It holds its pipe, the liveness lock and nothing else, and stays for SIGTERM, SIGINT and
    SIGHUP; one that is killed is replaced by one that knows the workers there are.
    """
    peer, _, group = working(stage)
    [killer] = peer.orphan_killers()
    descriptors = [str(entry.readlink()) for entry in Path(f"/proc/{killer}/fd").iterdir()]
    assert sorted(descriptors)[:2] == ["/dev/null", "/dev/null"]
    assert len(descriptors) == 4
    assert len([each for each in descriptors if each.startswith("/dev/shm/")]) == 1  # noqa: S108
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(killer, number)
    assert peer.orphan_killers() == [killer]
    os.kill(killer, signal.SIGKILL)
    until(lambda: peer.orphan_killers() not in ([], [killer]), "another one")
    peer.await_event("orphan_killer_missing")
    assert len(peer.events("orphan_killer_missing")) == 1
    peer.kill()
    until_gone(group)


def test_an_orphan_killer_knows_the_groups_before_it_reads_a_line() -> None:
    """A peer that is killed right after it started another one leaves nothing either."""
    left_behind = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    subprocess.run(
        [sys.executable, "-I", "-S", kill_orphans.__file__, str(left_behind.pid)],
        stdin=subprocess.DEVNULL,
        check=True,
    )
    assert left_behind.wait(60) == -signal.SIGKILL
