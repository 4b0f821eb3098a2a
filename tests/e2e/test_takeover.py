"""A killed peer's tasks run again at once while its host lives, and never beside the first run."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import Final
from uuid import UUID

from peers.pool.liveness import FOLDER
from tests.e2e import ledger
from tests.e2e.harness import Stage, group_members, until, workers_end

LONG: Final = {"lease_timeout": "120s"}
"""Longer than anything is awaited: what happens does not happen because a lease has ended."""
AT_ONCE: Final = 20.0
"""Seconds on a busy machine, and less than the lease. `python -m benchmarks.takeover`
measures a quiet one.
"""
LOOKS: Final = 1.5
"""Seconds in which a witness looks many times."""


def lost_because(stage: Stage, peer_id: UUID) -> str | None:
    """Why a peer was declared lost."""
    found = stage.row("select lost_because from peers.peer where id = %s", peer_id)
    return None if found["lost_because"] is None else str(found["lost_because"])


def forget_process(stage: Stage, peer_id: UUID) -> None:
    """Let no peer recognize this one's process, as if it ran on another host."""
    stage.db.execute(
        "update peers.peer set host_id = null, process_start = null, liveness_lock = null"
        " where id = %s",
        (peer_id,),
    )


def test_another_peer_of_the_host_takes_over(stage: Stage) -> None:
    """It sees that the process and its workers have ended, long before the lease ends."""
    first = stage.peer(slots=2, **LONG)
    running = [stage.submit("held.once", {"gate": stage.gate()}) for _ in range(2)]
    stage.until_started(*running)
    waiting = [stage.submit("noop", {"n": n}) for n in range(20)]
    second = stage.peer(slots=2, **LONG)
    killed = time.monotonic()
    first.kill()
    stage.until_state("completed", *running, *waiting)
    assert time.monotonic() - killed < AT_ONCE
    [failure] = stage.failures(running[0])
    assert failure["error_type"] == "lost"
    assert f"ended (peer {second.joined()} on the same host saw it)" in failure["error_message"]
    stage.assert_clean()


def test_a_peer_that_starts_takes_over_from_its_predecessor(stage: Stage) -> None:
    """The service manager starts a killed peer again: it does not wait for its own old lease."""
    first = stage.peer(**LONG)
    task_id = stage.submit("held.once", {"gate": stage.gate()})
    stage.until_started(task_id)
    first.kill()
    started = time.monotonic()
    stage.peer(**LONG)
    stage.until_state("completed", task_id)
    assert time.monotonic() - started < AT_ONCE
    stage.assert_clean()


def test_a_peer_that_joined_before_is_watched(stage: Stage) -> None:
    """Whoever of two peers is killed: the older one learns of the younger one at its join."""
    older = stage.peer(**LONG)
    first = stage.submit("held.once", {"gate": stage.gate()})
    stage.until_started(first)
    younger = stage.peer(**LONG)
    second = stage.submit("held.once", {"gate": stage.gate("other")})
    stage.until_started(second)
    younger.kill()
    stage.open(stage.gate())
    stage.until_state("completed", first, second)
    assert "ended" in str(lost_because(stage, younger.joined()))
    assert len(older.events("peer_joined")) == 1
    stage.assert_clean()


def test_a_stopped_peer_keeps_its_tasks(stage: Stage) -> None:
    """A process that is stopped has not ended."""
    first = stage.peer(**LONG)
    task_id = stage.submit("held.once", {"gate": stage.gate()})
    stage.until_started(task_id)
    stage.peer(**LONG)
    first.send(signal.SIGSTOP)
    time.sleep(LOOKS)
    assert lost_because(stage, first.joined()) is None
    assert len(stage.started(task_id)) == 1
    first.send(signal.SIGCONT)
    stage.open(stage.gate())
    stage.until_state("completed", task_id)
    assert stage.failures(task_id) == []
    stage.assert_clean()


def test_a_worker_that_outlives_its_peer(stage: Stage) -> None:
    """A stopped worker without the kernel's order to die: nobody runs its task beside it, and as
    soon as it has ended the task runs again.
    """
    first = stage.peer(**LONG)
    task_id = stage.submit("outlives.its.peer", {"gate": stage.gate()})
    stage.until_started(task_id)
    [run] = stage.started(task_id)
    stage.peer(**LONG)
    first.send(signal.SIGSTOP)  # or it would replace what is killed next
    for pid in first.orphan_killers():
        os.kill(pid, signal.SIGKILL)
    os.kill(run.pid, signal.SIGSTOP)
    first.kill()
    time.sleep(LOOKS)
    assert group_members(run.pid) == [run.pid]
    assert lost_because(stage, first.joined()) is None
    assert len(stage.started(task_id)) == 1
    os.kill(run.pid, signal.SIGKILL)
    stage.until_state("completed", task_id)
    assert len(stage.started(task_id)) == 2
    stage.assert_clean()


def test_no_task_runs_beside_its_lost_attempt(stage: Stage) -> None:
    """Peers are killed again and again under load: at no moment do two attempts of a task run."""
    moments = stage.folder / "moments"
    arguments: dict[str, object] = {"file": str(moments), "seconds": 0.1}
    moments.touch()
    task_ids: list[int] = []
    peers = [stage.peer(slots=3, **LONG) for _ in range(2)]
    for _ in range(5):
        task_ids += [stage.submit("ticks", arguments, max_attempts=100) for _ in range(60)]
        before = moments.stat().st_size
        until(lambda: moments.stat().st_size > before + 5000, "progress")  # noqa: B023
        peers.pop(0).kill()
        peers.append(stage.peer(slots=3, **LONG))
    stage.until_state("completed", *task_ids)
    ran: dict[int, dict[int, list[int]]] = {}
    for line in moments.read_text().splitlines():
        task_id, attempt, at = map(int, line.split())
        ran.setdefault(task_id, {}).setdefault(attempt, []).append(at)
    lost = 0
    for attempts in ran.values():
        ordered = [attempts[number] for number in sorted(attempts)]
        lost += len(ordered) - 1
        for earlier, later in itertools.pairwise(ordered):
            assert max(earlier) < min(later)
    assert lost >= 5, "each killed peer ran a task"
    stage.assert_clean()


def test_without_a_witness_the_lease_decides(stage: Stage) -> None:
    """A peer whose process nobody knows keeps its tasks until its lease ends, and no longer."""
    first = stage.peer(lease_timeout="4s")
    task_id = stage.submit("held.once", {"gate": stage.gate()})
    stage.until_started(task_id)
    forget_process(stage, first.joined())
    stage.peer(lease_timeout="4s")
    first.kill()
    stage.until_started(task_id, times=2)
    row = stage.row(
        "select extract(epoch from lost_at - heartbeat_at) as silent, lost_because"
        " from peers.peer where id = %s",
        first.joined(),
    )
    assert row["lost_because"] == "stopped sending heartbeats"
    assert 4 <= row["silent"] < 4 + AT_ONCE
    stage.until_state("completed", task_id)
    stage.assert_clean()


def test_a_peer_that_leaves_leaves_no_file(stage: Stage) -> None:
    """Only a killed one does, and the witness removes it."""
    first, second = stage.peer(**LONG), stage.peer(**LONG)
    query = "select liveness_lock from peers.peer where id = %s"
    files = [
        FOLDER / f"peers-{stage.row(query, peer.joined())['liveness_lock']}"
        for peer in (first, second)
    ]
    assert all(file.exists() for file in files)
    first.kill()
    until(lambda: not files[0].exists(), "the witness to remove the file")
    assert second.terminate() == 0
    assert not files[1].exists()


def test_handlers_pass_the_lock_to_nobody(stage: Stage) -> None:
    """A program that a handler has started and that survives does not delay the takeover."""
    first = stage.peer(**LONG)
    task_id = stage.submit("leaves.a.daemon", {"gate": stage.gate()})
    stage.until_started(task_id)
    until((stage.folder / "daemon").exists, "the daemon")
    daemon = int((stage.folder / "daemon").read_text())
    workers = first.workers()
    try:
        stage.peer(**LONG)
        first.kill()
        workers_end(workers)
        stage.until_state("completed", task_id)
        assert group_members(daemon) == [daemon], "it has a session of its own"
    finally:
        os.kill(daemon, signal.SIGKILL)
    assert len([e for e in ledger.read(stage.ledger) if e.event == "start"]) == 2
