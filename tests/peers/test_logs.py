"""What handlers log is found among the peer's own lines, with the task that it comes from."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from tests.peers.harness import until
from tests.support.cli import PATIENCE, PROJECT, command, environment
from tests.support.server import Connection

APP = """
import logging
from peers import task

@task("speaks")
def speaks() -> None:
    logging.getLogger("shop").info("one\\nline for %s", "me")
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
