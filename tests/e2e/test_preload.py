"""The app is imported once, and workers are forked from there; or, where that would not work, each
worker imports it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import PeerProcess, Stage, group_members, until, workers_end
from tests.e2e.ledger import whole_lines

APP = "tests.e2e.app_preload"
IMPORTS = "PEERS_TEST_IMPORTS"
AT_IMPORT = "PEERS_TEST_AT_IMPORT"


def launch(stage: Stage, at_import: str = "", **settings: Any) -> PeerProcess:
    """A peer that has joined."""
    environment = stage.environment(APP, **settings)
    environment[IMPORTS] = str(stage.folder / "imports")
    environment[AT_IMPORT] = at_import
    peer = stage.launch_in(environment)
    peer.joined()
    return peer


def imports(stage: Stage) -> list[int]:
    """The processes that have imported the app."""
    return [int(line) for line in whole_lines(stage.folder / "imports")]


def all_workers(stage: Stage, slots: int) -> list[dict[str, Any]]:
    """What as many workers tell, all at work at the same time."""
    gate = stage.gate(f"gate {len(stage.rows('select id from peers.task'))}")
    tasks = [stage.submit("who", {"gate": gate}) for _ in range(slots)]
    stage.until_started(*tasks)
    stage.open(gate)
    stage.until_state("completed", *tasks)
    return [stage.task(task)["result"] for task in tasks]


def test_four_workers_take_one_import(stage: Stage) -> None:
    """Each is a child of the peer, leads a session, has random numbers of its own, and no
    descriptor of the others or of the process that it comes from.
    """
    peer = launch(stage, slots=4)
    told = all_workers(stage, 4)
    assert imports(stage) == peer.fork_servers()
    assert sorted(one["pid"] for one in told) == sorted(peer.workers())
    assert [one["parent"] for one in told] == [peer.pid] * 4
    assert [one["session"] for one in told] == [one["pid"] for one in told]
    for generator in (0, 1):
        assert len({one["random"][generator] for one in told}) == 4
    assert {(one["sockets"], one["markers"], one["pipes"]) for one in told} == {
        (1, 2, 0)
    }  # mmap has its own
    assert peer.terminate() == 0
    assert peer.events("worker_died") == []


def test_a_worker_that_was_killed_comes_back_without_an_import(stage: Stage) -> None:
    """The task that ran there knows the signal, though the app's files are others by now."""
    peer = launch(stage, slots=2)
    task = stage.submit("who", {"gate": stage.gate("never")}, max_attempts=1)
    stage.until_started(task)
    [started] = stage.started(task)
    os.kill(started.pid, signal.SIGKILL)
    stage.until_state("dead", task)
    assert stage.failures(task)[0]["exit_signal"] == "SIGKILL"
    assert started.pid not in {one["pid"] for one in all_workers(stage, 2)}
    assert len(imports(stage)) == 1
    assert peer.events("fork_server_lost") == []


def test_workers_outlive_their_fork_server(stage: Stage) -> None:
    """What runs goes on; for a worker that is needed then the app is imported once more, by itself
    or, after a while, by another fork server.
    """
    peer = launch(stage, slots=1)
    gate = stage.gate()
    task = stage.submit("who", {"gate": gate})
    stage.until_started(task)
    [server] = peer.fork_servers()
    os.kill(server, signal.SIGKILL)
    assert "SIGKILL" in peer.await_event("fork_server_lost")["reason"]
    stage.open(gate)
    stage.until_state("completed", task)
    assert stage.task(task)["attempt"] == 1
    [worker] = peer.workers()
    os.kill(worker, signal.SIGKILL)
    all_workers(stage, 1)
    assert len(imports(stage)) == 2
    assert imports(stage)[0] == server

    def kill_again() -> bool:
        for pid in peer.workers():
            os.kill(pid, signal.SIGKILL)
        return bool(peer.fork_servers())

    until(kill_again, "another fork server")
    all_workers(stage, 1)
    assert peer.terminate() == 0


def test_no_task_is_lost_while_workers_and_fork_servers_are_killed(stage: Stage) -> None:
    """Again and again, all at once: each task completes, and its outcome counts once."""
    peer = stage.peer(slots=2)
    for _ in range(20):
        stage.submit("held", {"gate": stage.gate()}, max_attempts=1000)
    for kills in range(1, 6):
        for pid in [*peer.fork_servers(), *peer.workers()]:
            os.kill(pid, signal.SIGKILL)
        peer.await_event("worker_started", times=2 * kills + 1)
    stage.open(stage.gate())
    stage.until_ended()
    stage.assert_clean()
    assert peer.terminate() == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_is_left_of_a_peer_that_is_killed(stage: Stage, stopped: bool) -> None:
    """Neither its workers nor its fork server, also when all of them stand still, and there is
    nobody to kill them but the kernel.
    """
    peer = launch(stage, slots=2)
    all_workers(stage, 2)
    processes = [*peer.fork_servers(), *peer.workers()]
    assert len(processes) == 3
    if stopped:
        for pid in [peer.pid, *processes]:
            os.kill(pid, signal.SIGSTOP)
        [killer] = peer.orphan_killers()
        os.kill(killer, signal.SIGKILL)
    peer.kill()
    workers_end(processes)


def test_nothing_is_left_of_a_peer_that_is_killed_during_the_import(stage: Stage) -> None:
    """The import is not over for a long time."""
    peer = stage.launch("tests.e2e.app_slow")
    until(peer.fork_servers, "the import")
    servers = peer.fork_servers()
    peer.kill()
    workers_end(servers)


def test_each_worker_sees_its_own_gpu_from_the_import_on(stage: Stage) -> None:
    """As many fork servers as there are different environments."""
    peer = launch(stage, slots=4, gpus="GPU-a,GPU-b")
    told = all_workers(stage, 4)
    assert sorted(one["gpu"] for one in told) == ["GPU-a", "GPU-a", "GPU-b", "GPU-b"]
    assert sorted(imports(stage)) == sorted(peer.fork_servers())
    assert len(imports(stage)) == 2


@pytest.mark.parametrize(
    ("at_import", "reason"),
    [
        ("thread", "the thread beat"),
        ("connection", "socket:"),
        ("loop", "opened"),
        ("file", "app_preload.py"),
        ("process", "a process"),
    ],
)
def test_an_app_that_a_fork_would_break_is_imported_by_each_worker(
    stage: Stage, at_import: str, reason: str
) -> None:
    """The log says why, once, and everything works: a thread that the import started runs in each
    worker. The first import is not in vain.
    """
    peer = launch(stage, at_import, slots=2)
    told = all_workers(stage, 2)
    assert all((one["beats"] > 0) == (at_import == "thread") for one in told)
    peer.await_event("app_not_preloaded")
    [event] = peer.events("app_not_preloaded")
    assert reason in event["reason"]
    assert sorted(imports(stage)) == sorted(one["pid"] for one in told) == sorted(peer.workers())
    assert [one["session"] for one in told] == [one["pid"] for one in told]
    assert peer.fork_servers() == []
    assert peer.terminate() == 0


def test_a_log_of_the_app_is_no_reason_not_to_fork(stage: Stage) -> None:
    """All write at the end of such a file, whoever opened it."""
    launch(stage, "log", slots=2)
    all_workers(stage, 2)
    assert len(imports(stage)) == 1


def test_preloading_can_be_switched_off(stage: Stage) -> None:
    """Then each worker imports the app itself."""
    peer = launch(stage, slots=2, preload="off")
    told = all_workers(stage, 2)
    assert sorted(imports(stage)) == sorted(one["pid"] for one in told)
    assert peer.fork_servers() == []
    assert peer.events("app_not_preloaded") == []


def test_an_app_that_is_replaced_on_disk(stage: Stage, tmp_path: Path) -> None:
    """A worker that is replaced still runs the old code. A new fork server imports what is there
    by then: while that is broken, the workers that there are go on, and new ones are tried again.
    """
    app = tmp_path / "replaced.py"
    code = "import peers\n@peers.task('k')\ndef k() -> str: return '{}'\n"
    app.write_text(code.format("old"))
    environment = stage.environment("replaced", slots=1)
    environment["PYTHONPATH"] = str(tmp_path)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    peer = stage.launch_in(environment)
    peer.joined()
    app.write_text("import nothing_of_this_name")

    def result() -> object:
        task = stage.submit("k")
        stage.until_state("completed", task)
        return stage.task(task)["result"]

    [worker] = peer.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: peer.workers() not in ([], [worker]), "another worker")
    assert result() == "old"
    os.kill(peer.fork_servers()[0], signal.SIGKILL)
    peer.await_event("fork_server_lost")
    assert result() == "old"
    os.kill(peer.workers()[0], signal.SIGKILL)
    assert "nothing_of_this_name" in peer.await_event("worker_start_failed")["error"]
    app.write_text(code.format("new"))
    assert result() == "new"
    assert len(peer.events("peer_joined")) == 1


def test_what_an_import_started_ends_with_its_process(stage: Stage) -> None:
    """Programs that the app starts while it is imported do not outlive their peer."""
    peer = launch(stage, "process", slots=2)
    all_workers(stage, 2)
    groups = imports(stage)
    assert all(len(group_members(group)) == 2 for group in groups)
    peer.kill()
    until(lambda: not any(group_members(group) for group in groups), "the end of all of them")
