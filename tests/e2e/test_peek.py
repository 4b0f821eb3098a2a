"""`peers peek`: what a running handler does, seen from elsewhere, while it goes on undisturbed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

import peers
from peers.client.peek import Peek
from peers.errors import NotRunning
from tests.e2e.harness import PeerProcess, Stage, until
from tests.support.cli import peers as run

APP = "tests.e2e.app_peek"


def look(stage: Stage, task_id: int, timeout: float = 15) -> Peek:
    """What the task's handler does now."""
    with peers.Client(stage.url) as client:
        return client.peek(task_id, timeout)


def result(stage: Stage, task_id: int) -> Any:
    """What the handler returned, in its first and only attempt."""
    stage.until_state("completed", task_id)
    task = stage.task(task_id)
    assert task["attempt"] == 1
    assert not stage.failures(task_id)
    return task["result"]


@pytest.mark.parametrize("preload", ["on", "off"])
def test_a_sleeping_handler_shows_its_stack_and_its_memory(stage: Stage, preload: str) -> None:
    """Workers of a fork server and others: the frames of the handler, and nothing of Peers."""
    peer = stage.peer(APP, preload=preload)
    gate, padding = stage.gate(), 64 << 20
    task_id = stage.submit("peek.sleep", {"gate": gate, "padding": padding})
    stage.until_started(task_id)
    until(lambda: "_slowly (" in look(stage, task_id).facts["innermost"], "the sleep")
    seen = look(stage, task_id)
    assert seen.phase == "running"
    assert seen.facts["stacks_from"] == "interpreter"
    assert "in sleep\n" in seen.report
    assert "loop_sync" not in seen.report
    assert seen.facts["worker_pid"] in peer.workers()
    assert seen.facts["peer_pid"] == peer.pid
    assert seen.facts["rss_bytes"] > padding
    assert seen.facts["cpu_percent"] < 50
    stage.open(gate)
    assert result(stage, task_id) == {"kept": padding}


def test_a_busy_handler_uses_the_cpu(stage: Stage) -> None:
    """Python code that never waits replies as well."""
    stage.peer(APP)
    gate = stage.gate()
    task_id = stage.submit("peek.busy", {"gate": gate})
    stage.until_started(task_id)
    seen = look(stage, task_id)
    assert "in busy\n" in seen.report
    # a busy machine may not let it run while it is looked at
    until(lambda: look(stage, task_id).facts["cpu_percent"] > 5, "its use of the CPU")
    stage.open(gate)
    assert result(stage, task_id) == 1


def test_c_code_that_holds_the_gil_is_seen(stage: Stage) -> None:
    """The interpreter cannot reply, and the signal's handler needs no GIL."""
    stage.peer(APP)
    task_id = stage.submit("peek.regex", {"size": 27})
    stage.until_started(task_id)
    seen = look(stage, task_id)
    assert seen.facts["stacks_from"] == "signal", seen.report
    assert "in regex\n" in seen.report
    assert "GIL" in seen.report
    assert "main thread" in seen.report
    assert result(stage, task_id) is True


def test_a_system_call_that_holds_the_gil_does_not_return_early(stage: Stage) -> None:
    """The signal goes to another thread: sleep(3) would return with EINTR."""
    stage.peer(APP)
    task_id = stage.submit("peek.c_sleep", {"seconds": 8})
    stage.until_started(task_id)
    seen = look(stage, task_id)
    assert seen.facts["stacks_from"] == "signal", seen.report
    assert "c_sleep" in seen.facts["innermost"]
    assert stage.task(task_id)["state"] == "running"
    assert result(stage, task_id) == 0


@pytest.mark.parametrize("kind", ["peek.default_signal", "peek.other_file"])
def test_the_signal_is_not_sent_where_it_would_do_harm(
    stage: Stage, tmp_path: Path, kind: str
) -> None:
    """Without its handler it would kill the worker; or the stacks would go to a file of the app."""
    stage.peer(APP)
    path = {"path": str(tmp_path / "report")} if kind == "peek.other_file" else {}
    task_id = stage.submit(kind, {"seconds": 8, **path})
    stage.until_started(task_id)
    looks: list[Peek] = []

    def in_the_c_function() -> bool:
        looks.append(look(stage, task_id))
        return looks[-1].facts["stacks_from"] is None

    until(in_the_c_function, "a look at the C function")
    seen = looks[-1]
    assert "no stack: the worker has not replied within 2 s" in seen.report
    assert seen.facts["rss_bytes"] > 0
    assert result(stage, task_id) in (0, "")


def test_children_and_threads_are_seen(stage: Stage) -> None:
    """A handler that waits for a program, and one that waits for a thread."""
    stage.peer(APP, slots=2)
    gate = stage.gate()
    for_child = stage.submit("peek.child", {"gate": gate})
    for_thread = stage.submit("peek.threads", {"gate": gate})
    stage.until_started(for_child, for_thread)

    def children() -> list[str]:
        return [child["name"] for child in look(stage, for_child).facts["children"]]

    until(lambda: "sh" in children(), "the program")
    until(lambda: "thread helper:" in look(stage, for_thread).report, "the thread")
    assert "_wait_for" in look(stage, for_thread).report
    stage.open(gate)
    assert result(stage, for_child) == 0
    assert result(stage, for_thread) == 1


def test_each_async_handler_has_a_stack_of_its_own(stage: Stage) -> None:
    """Several share a process: the coroutines that one of them awaits, and the tasks it started."""
    stage.peer(APP, slots=4)
    gate = stage.gate()
    deep = stage.submit("peek.await", {"gate": gate})
    wide = stage.submit("peek.gather", {"gate": gate})
    stage.until_started(deep, wide)
    seen = look(stage, deep)
    assert "the handler's coroutine:" in seen.report
    functions = ["in awaiting", "in _deep\n", "in _deeper\n"]
    places = [seen.report.index(function) for function in functions]
    assert places == sorted(places)
    assert "gathering" not in seen.report
    other = look(stage, wide)
    assert other.report.count("of the handler:") == 2
    assert "in awaiting" not in other.report
    stage.open(gate)
    assert (result(stage, deep), result(stage, wide)) == (1, 1)


def test_a_blocked_loop_shows_who_blocks_it(stage: Stage) -> None:
    """The handler that waits cannot run, because another one has the loop."""
    stage.peer(APP, slots=4)
    gate, waits = stage.gate(), stage.gate("waits")
    waiting = stage.submit("peek.await", {"gate": waits})
    stage.until_started(waiting)
    blocker = stage.submit("peek.block", {"gate": gate})
    stage.until_started(blocker)
    seen = look(stage, waiting)
    assert f"task {blocker} (peek.block) has the loop" in seen.report
    assert "in _deeper\n" in seen.report
    assert "main thread:" in seen.report
    assert "in blocking" in seen.report
    stage.open(gate)
    stage.open(waits)
    assert (result(stage, waiting), result(stage, blocker)) == (1, 1)


def test_a_stopped_worker_is_described_from_outside(stage: Stage) -> None:
    """It cannot reply; the peer says why, and the worker goes on afterwards."""
    stage.peer(APP)
    gate = stage.gate()
    task_id = stage.submit("peek.sleep", {"gate": gate})
    stage.until_started(task_id)
    worker = look(stage, task_id).facts["worker_pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        until(lambda: look(stage, task_id).facts["state"] == "T", "the stop")
        seen = look(stage, task_id)
        assert seen.facts["innermost"] is None
        assert f"kill -CONT {worker}" in seen.report
        assert seen.facts["rss_bytes"] > 0
    finally:
        os.kill(worker, signal.SIGCONT)
    assert "in sleep\n" in look(stage, task_id).report
    stage.open(gate)
    assert result(stage, task_id) == {"kept": 0}


def test_a_task_that_is_not_running_is_explained(stage: Stage) -> None:
    """The error is what `peers explain` says."""
    stage.peer(APP)
    gate = stage.gate()
    first = stage.submit("peek.sleep", {"gate": gate})
    stage.until_started(first)
    second = stage.submit("peek.sleep", {"gate": gate})
    with pytest.raises(NotRunning, match=f"task {second} is not running. Ready: 1 live peer"):
        look(stage, second)
    stage.open(gate)
    assert result(stage, second) == {"kept": 0}


def test_only_the_peer_that_runs_the_task_replies(stage: Stage) -> None:
    """Two peers; and each report is about its own worker."""
    found: dict[int, PeerProcess] = {}
    gate = stage.gate()
    for _ in range(2):
        peer = stage.peer(APP)
        task_id = stage.submit("peek.sleep", {"gate": gate})
        stage.until_started(task_id)
        found[task_id] = peer
    for task_id, peer in found.items():
        assert look(stage, task_id).facts["peer_pid"] == peer.pid
    stage.open(gate)
    for task_id in found:
        assert result(stage, task_id) == {"kept": 0}


def test_a_lost_notification_delays_the_reply_until_the_next_heartbeat(stage: Stage) -> None:
    """Notifications are hints."""
    stage.peer(APP, heartbeat_interval="500ms")
    gate = stage.gate()
    task_id = stage.submit("peek.sleep", {"gate": gate})
    stage.until_started(task_id)
    with psycopg.connect(stage.url, autocommit=True) as connection:
        connection.execute("set peers.notify = 'off'")
        [[number]] = connection.execute("select peers.request_peek(%s)", (task_id,)).fetchall()
    stage.until_true("select replied_at is not null from peers.peek where id = %s", number)
    stage.open(gate)
    assert result(stage, task_id) == {"kept": 0}


def test_a_peer_that_hangs_or_dies_is_named(stage: Stage) -> None:
    """No reply: the error says when its last heartbeat was."""
    peer = stage.peer(APP)
    gate = stage.gate()
    task_id = stage.submit("peek.sleep", {"gate": gate})
    stage.until_started(task_id)
    peer.send(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError, match=f"pid {peer.pid}, sent its last heartbeat"):
            look(stage, task_id, 1)
    finally:
        peer.send(signal.SIGCONT)
    stage.until_true("select replied_at is not null from peers.peek where task_id = %s", task_id)
    stage.open(gate)
    assert result(stage, task_id) == {"kept": 0}


def test_tasks_that_end_while_they_are_looked_at(stage: Stage) -> None:
    """A reply, or a sentence that the task is not running; never an error, and never a loss."""
    stage.peer(APP, slots=2)
    ended = threading.Event()
    said: set[str] = set()

    def keep_looking() -> None:
        with peers.Client(stage.url) as client:
            while not ended.is_set():
                for row in client.find(state="running", limit=2):
                    try:
                        said.add(client.peek(row.id, 5).phase)
                    except NotRunning:
                        said.add("not running")

    watcher = threading.Thread(target=keep_looking)
    watcher.start()
    try:
        gates = [stage.gate(str(number)) for number in range(20)]
        ids = [stage.submit("peek.sleep", {"gate": gate}) for gate in gates]
        for gate in gates:
            time.sleep(0.1)
            stage.open(gate)
        stage.until_state("completed", *ids)
    finally:
        ended.set()
        watcher.join()
    assert said
    for task_id in ids:
        assert result(stage, task_id) == {"kept": 0}


def test_the_command_prints_the_report(stage: Stage) -> None:
    """Text, JSON, samples, and what cannot be shown."""
    stage.peer(APP)
    gate = stage.gate()
    task_id = stage.submit("peek.sleep", {"gate": gate})
    stage.until_started(task_id)
    answer = run("peek", str(task_id), url=stage.url)
    assert answer.code == 0, answer
    assert "main thread:" in answer.out
    assert (
        f"peek {task_id}` shows what its handler does"
        in run("explain", str(task_id), url=stage.url).err
    )
    many = run("peek", str(task_id), "--repeat", "3", "--every", "10ms", "--json", url=stage.url)
    assert '"samples"' in many.out
    stage.open(gate)
    assert result(stage, task_id) == {"kept": 0}
    gone = run("peek", str(task_id), url=stage.url)
    assert gone.code == 1
    assert f"task {task_id} is not running. Completed at" in gone.err
    assert run("peek", "999", url=stage.url).code == 4
