"""`peers log`: what an attempt has said, for people, for programs, and while it runs."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

import peers
from peers.cli import log as cli_log
from tests.support.cli import PATIENCE, Here, command, environment, submit
from tests.support.world import Peer, run

if TYPE_CHECKING:
    from tests.support.server import Connection

_STORE = (
    "select peers.store_logs(%s, array[%s]::bigint[], array[%s]::uuid[], array[%s]::integer[],"
    " array[%s]::text[], array[%s]::bigint[], array[%s]::bytea[])"
)


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands on the test's database."""
    monkeypatch.setattr(cli_log, "_FRESH_WITHIN", 0.0)
    return Here(database_url, monkeypatch, capsys)


def store(
    db: Connection, task_id: int, text: str | None, *, attempt: int = 1, size: int | None = None,
    outcome: str | None = "failed", token: UUID | None = None, peer_id: UUID | None = None,
) -> None:  # fmt: skip
    """Store a log as a peer does."""
    data = None if text is None else text.encode()
    bytes_ = len(data or b"") if size is None else size
    run(db, _STORE, peer_id or uuid4(), task_id, token or uuid4(), attempt, outcome, bytes_, data)


def test_the_last_log_is_shown_and_the_others_are_named(here: Here, db: Connection) -> None:
    """The text alone goes to stdout; what it is goes to stderr."""
    task_id = submit(db, "thumbs.make")
    for attempt in (1, 2, 3):
        store(db, task_id, f"attempt {attempt}\n", attempt=attempt)
    answer = here("log", str(task_id))
    assert (answer.code, answer.out) == (0, "attempt 3\n")
    assert f"task {task_id} (thumbs.make), attempt 3 on host ?: failed" in answer.err
    assert f"peers log {task_id} --attempt 2" in answer.err
    assert here("log", str(task_id), "--attempt", "1").out == "attempt 1\n"


def test_what_is_missing_is_told(here: Here, db: Connection) -> None:
    """No task, no log, no log of this attempt: exit code 4, and why."""
    assert here("log", "4711").code == 4
    task_id = submit(db, "a")
    answer = here("log", str(task_id))
    assert (answer.code, answer.out) == (4, "")
    assert "has no log" in answer.err
    assert "keep_log" in answer.err
    store(db, task_id, "x", attempt=2)
    answer = here("log", str(task_id), "--attempt", "1")
    assert answer.code == 4
    assert "There are logs of attempt 2." in answer.err
    store(db, task_id, "end\n", attempt=3, size=100_000)
    assert "the first 99,996 bytes were not kept" in here("log", str(task_id)).err


def test_json_has_everything(here: Here, db: Connection) -> None:
    """The text as it is, with its escapes."""
    task_id = submit(db, "a")
    store(db, task_id, "\x1b[31mred\x1b[0m\n", size=70_000)
    found = here("log", str(task_id), "--json").document
    assert (found["task_id"], found["kind"], found["state"]) == (task_id, "a", "ready")
    assert (found["attempt"], found["outcome"], found["size"]) == (1, "failed", 70_000)
    assert (found["cut"], found["text"]) == (True, "\x1b[31mred\x1b[0m\n")


def test_no_log_controls_the_terminal(here: Here, db: Connection) -> None:
    """In a pipe there are no colours, and other escapes are shown as text anywhere."""
    task_id = submit(db, "a")
    store(db, task_id, "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\n")
    assert here("log", str(task_id)).out == "red \\x1b]0;title\\x07 \\x1b[2J\n"


def test_a_running_attempt_is_followed_to_its_end(db: Connection, database_url: str) -> None:
    """Each complete line once, whatever was overwritten meanwhile; then how it ended."""
    task_id = submit(db, "a")
    peer = Peer.join(db)
    [claim] = peer.claim()
    task = {"token": claim.token, "peer_id": peer.id, "outcome": None}
    run(db, "listen peers")
    follower = subprocess.Popen(
        command("log", str(task_id), "--follow"), env=environment(database_url),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert follower.stdout is not None
    [asked] = list(db.notifies(timeout=PATIENCE, stop_after=1))
    assert asked.payload == f"log {task_id}"
    store(db, task_id, "one\n10 %", **task)  # type: ignore[arg-type]
    assert follower.stdout.readline() == "one\n"
    store(db, task_id, "one\n90 %\ntwo\n", **task)  # type: ignore[arg-type]
    assert [follower.stdout.readline() for _ in range(2)] == ["90 %\n", "two\n"]
    store(db, task_id, "five\nsix", size=100, **task | {"outcome": "failed"})  # type: ignore[arg-type]
    peer.fail(claim)
    out, err = follower.communicate(timeout=PATIENCE)
    assert out == "five\nsix\n"
    assert follower.returncode == 0
    assert "… 79 bytes were not kept" in err
    assert "attempt 1 failed; the task is scheduled" in err
    assert f"log {task_id} --follow` follows the next attempt" in err


def test_an_ended_task_is_not_waited_for(here: Here, db: Connection) -> None:
    """`--follow` shows what there is; with --json each part is a line."""
    task_id = submit(db, "a")
    peer = Peer.join(db)
    [claim] = peer.claim()
    store(db, task_id, "one\n", outcome="completed", token=claim.token, peer_id=peer.id)
    peer.complete(claim)
    assert here("log", str(task_id), "--follow").out == "one\n"


def test_python_reads_logs_too(db: Connection, database_url: str) -> None:
    """The last one, or that of an attempt; None if there is none."""
    task_id = submit(db, "a")
    with peers.Client(database_url) as client:
        assert client.log(task_id) is None
        for attempt in (1, 2):
            store(db, task_id, f"attempt {attempt}", attempt=attempt)
        found = client.log(task_id)
        assert found is not None
        assert (found.attempt, found.text, found.outcome) == (2, "attempt 2", "failed")
        assert (found.size, found.is_cut, found.host) == (9, False, None)
        first = client.log(task_id, attempt=1)
        assert first is not None
        assert first.text == "attempt 1"
        assert client.log(task_id, 3) is None
        with pytest.raises(peers.TaskNotFound):
            client.log(4711)
        with pytest.raises(peers.BadArgument):
            client.log(task_id, "one")  # type: ignore[arg-type]


def test_async_python_reads_logs_too(db: Connection, database_url: str) -> None:
    """The same without blocking the loop."""
    task_id = submit(db, "a")
    store(db, task_id, "text")

    async def read() -> peers.TaskLog | None:
        async with peers.AsyncClient(database_url) as client:
            return await client.log(task_id)

    found = asyncio.run(read())
    assert found is not None
    assert found.text == "text"
