"""What handlers log is found among the peer's own lines, with the task that it comes from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.e2e.harness import until
from tests.support.cli import PATIENCE, PROJECT, command, environment
from tests.support.server import Connection

APP = """
import logging, time
from peers import current_task, task

@task("speaks")
def speaks() -> None:
    logging.getLogger("shop").info("one\\nline for %s", "me", extra={"order": 7})

@task("floods")
def floods(lines: int) -> None:
    for number in range(lines):
        logging.getLogger("shop").info("line %d", number)

@task("waits")
def waits() -> None:
    floods(1000)
    while not current_task().cancelled:
        time.sleep(0.01)
"""


def test_a_handler_logs_one_object_a_line_that_names_its_task(
    db: Connection, database_url: str, tmp_path: Path
) -> None:
    """Also when what it says has several lines; and every line of the peer is an object too."""
    (tmp_path / "speaking.py").write_text(APP)
    db.execute("insert into peers.task (kind) values ('speaks')")
    log = tmp_path / "log"
    with log.open("w") as stderr:
        peer = subprocess.Popen(
            [*command("run"), "--app", "speaking", "--queues", "default=1"],
            env=environment(database_url, {"PYTHONPATH": f"{PROJECT}:{tmp_path}"}), stderr=stderr,
        )  # fmt: skip
    done = "select 1 from peers.task where state = 'completed'"
    try:
        until(lambda: db.execute(done).fetchone(), "the task")
    finally:
        peer.send_signal(signal.SIGTERM)
        assert peer.wait(PATIENCE) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [said] = [line for line in lines if line["logger"] == "shop"]
    assert (said["level"], said["message"]) == ("info", "one\nline for me")
    assert (said["task_id"], said["kind"], said["attempt"]) == (1, "speaks", 1)
    assert (said["event"], said["order"]) == ("log", 7)
    [ended] = [line for line in lines if line["event"] == "tasks_ended"]
    assert (ended["level"], ended["completed"], ended["failed"]) == ("info", 1, 0)


def test_a_log_that_nobody_reads_stops_neither_peer_nor_handlers(
    db: Connection, database_url: str, tmp_path: Path
) -> None:
    """With a full pipe as stderr tasks complete, a cancel arrives, a drain ends in time; and what
    is dropped is counted.
    """
    (tmp_path / "speaking.py").write_text(APP)
    db.execute("insert into peers.task (kind, args) values ('floods', '{\"lines\": 50000}')")
    state = "select state::text as state from peers.task order by id desc limit 1"

    def is_now(wanted: str) -> bool:
        [row] = db.execute(state)
        return bool(row["state"] == wanted)

    reader, writer = os.pipe()
    peer = subprocess.Popen(
        [*command("run"), "--app", "speaking", "--queues", "default=1", "--log-format", "json"],
        env=environment(database_url, {"PYTHONPATH": f"{PROJECT}:{tmp_path}"}), stderr=writer,
    )  # fmt: skip
    os.close(writer)
    try:
        until(lambda: is_now("completed"), "the task that floods the log")
        db.execute("insert into peers.task (kind) values ('waits')")
        until(lambda: is_now("running"), "the next task")
        db.execute("select peers.cancel(max(id)) from peers.task")
        until(lambda: not is_now("running"), "its end")
        assert is_now("completed")  # it heard of it, and was not killed
        peer.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert peer.wait(PATIENCE) == 0
        assert time.monotonic() - began < 20  # its drain may take 30 s: none of it went to the log
        with os.fdopen(reader) as stream:  # the pipe's other ends are closed
            heard = [json.loads(line) for line in stream if line.endswith("}\n")]
    finally:
        peer.kill()
        peer.wait()
    assert 0 < sum(line["logger"] == "shop" for line in heard) < 50_000
