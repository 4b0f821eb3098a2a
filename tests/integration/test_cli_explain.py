"""`peers explain` and `peers schedule explain`: each remedy in SQL comes with its command."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Here, bury, submit, until
from tests.support.schedules import set_clock
from tests.support.world import Peer

if TYPE_CHECKING:
    from tests.support.server import Connection

REMEDIES = {
    "resume": "resume", "resume_graph": "graph resume", "peer_status": "status",
    "retry": "dead retry", "discard": "dead discard", "check": "check --repair",
    "resume_schedule": "schedule resume", "cancel": "cancel",
    "schedule_status": "schedule list",  # in the hint of an error
    "place_limited": "",  # peers call it, not people
}  # fmt: skip
"""The commands for what the texts of explain name."""


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands on the test's database."""
    return Here(database_url, monkeypatch, capsys)


def test_every_remedy_is_known_here(db: Connection) -> None:
    """A text of explain that names another function needs a hint, and a test below."""
    sources = db.execute(
        "select prosrc from pg_proc where pronamespace = 'peers'::regnamespace"
        " and proname like '%explain%'"
    ).fetchall()
    literals = re.findall(r"'((?:[^']|'')*)'", "\n".join(row["prosrc"] for row in sources))
    assert len(literals) > 50
    named = {name for text in literals for name in re.findall(r"peers\.(\w+)", text)}
    assert named == set(REMEDIES)


def hinted(here: Here, *words: str) -> tuple[str, list[str]]:
    """Return what a command explains, and the commands that it suggests."""
    answer = here(*words)
    assert answer.code == 0, answer
    told = " ".join(line.strip() for line in answer.out.splitlines())
    commands = re.findall(r"`peers ([^`]+)`", " ".join(answer.err.split()))
    for name in re.findall(r"peers\.(\w+)", told):
        assert any(each.startswith(REMEDIES[name]) for each in commands), (name, commands)
    return told, commands


def test_what_waits_or_has_ended(here: Here, db: Connection) -> None:
    """A paused queue or graph, no peer, and dead parents, each with its own id."""
    waiting = submit(db, "a")
    told, commands = hinted(here, "explain", str(waiting))
    assert ("no live peer" in told, commands) == (True, ["status"])
    peer = Peer.join(db, "a", "b")
    assert hinted(here, "explain", str(waiting))[1] == []
    db.execute("select peers.pause('default')")
    assert hinted(here, "explain", str(waiting))[1] == ["resume default"]
    db.execute("select peers.resume('default')")
    first, second = submit(db, "b"), submit(db, "b")
    bury(db, str(peer.id))
    child = submit(db, "a", after=(first, second))
    told, commands = hinted(here, "explain", str(child))
    assert told.count("is dead") == 2
    assert commands == [f"dead retry {first} {second}", f"dead discard {first} {second}"]
    assert f"dead retry {first}" in hinted(here, "explain", str(first))[1]


def test_a_paused_graph(here: Here, db: Connection) -> None:
    """Whether the task is ready, scheduled or blocked."""
    nodes = [
        {"name": "1", "kind": "a"}, {"name": "2", "kind": "a", "after": ["1"]},
        {"name": "3", "kind": "a", "scheduled_at": "2100-01-01T00:00:00Z"},
    ]  # fmt: skip
    rows = db.execute("select * from peers.submit_graph(%s)", (json.dumps(nodes),)).fetchall()
    graph = rows[0]["graph_id"]
    db.execute("select peers.pause_graph(%s)", (graph,))
    for row in rows:
        assert hinted(here, "explain", str(row["task_id"]))[1] == [f"graph resume {graph}"]


def test_a_running_task_without_a_lease(here: Here, db: Connection) -> None:
    """The command that repairs is suggested."""
    task = submit(db, "a")
    peer = Peer.join(db, "a")
    db.execute("select * from peers.claim(%s, 'default', 1)", (peer.id,))
    db.execute("set session_replication_role = replica")
    db.execute("delete from peers.lease")
    db.execute("set session_replication_role = default")
    assert hinted(here, "explain", str(task))[1] == ["check --repair"]


@pytest.mark.parametrize("name", ["stripe", 'my "own" limit', "is full"])
def test_every_limit_that_is_named(here: Here, db: Connection, name: str) -> None:
    """Shut, full, or with other tasks ahead under several limits."""
    here("limit", "set", name, "--kind", "a", "--max-running", "1")
    here("limit", "set", "whole", "--queue", "default", "--max-running", "9")
    peer = Peer.join(db, "a")
    tasks = [submit(db, "a") for _ in range(3)]
    db.execute("select peers.place_limited()")
    quoted = name if name == "stripe" else f"'{name}'"
    told, commands = hinted(here, "explain", str(tasks[2]))
    assert "2 are ahead under limit" in told
    assert commands == [f"limit show {quoted}", "limit show whole"]
    claim = "select * from peers.claim_limited(%s, 'default', 1, 10, '{}', null)"

    def is_claimed() -> bool:
        db.execute(claim, (peer.id,))
        return bool(db.execute("select from peers.lease").fetchall())

    until(is_claimed, "a task is claimed")  # one call may find the limit locked
    told, commands = hinted(here, "explain", str(tasks[2]))
    assert ("is full" in told, commands) == (True, [f"limit show {quoted}"])
    here("limit", "shut", name, "--reason", 'the limit "of" is reached')
    told, commands = hinted(here, "explain", str(tasks[2]))
    assert ("is shut until" in told, commands[0]) == (True, f"limit show {quoted}")


def test_schedules(here: Here, db: Connection) -> None:
    """A pause, a backfill, and a run whose task is dead."""
    set_clock(db, "2026-11-20 12:00:00+00")
    here("schedule", "add", "it's mine", "a", "--every", "1h")
    peer = Peer.join(db, "a")
    assert hinted(here, "schedule", "explain", "it's mine")[1] == []
    here("schedule", "pause", "it's mine")
    number = here("schedule", "backfill", "it's mine", "--from", "2026-11-19T00:00Z").out.split()[1]
    commands = hinted(here, "schedule", "explain", "it's mine")[1]
    assert commands == [
        """schedule resume 'it'"'"'s mine'""", f"schedule cancel-backfill {number}",
    ]  # fmt: skip
    here("schedule", "cancel-backfill", number)
    here("schedule", "resume", "it's mine")
    task = int(here("schedule", "run", "it's mine").out)
    bury(db, str(peer.id))
    told = here("schedule", "explain", "it's mine")
    assert "Dead since" in told.out
    assert f"`peers explain {task}`" in told.err


def test_several_tasks_are_explained_at_once(here: Here, db: Connection) -> None:
    """Each under its id, also after one that does not exist."""
    first, second = submit(db, "a"), submit(db, "b")
    answer = here("explain", str(first), str(second + 9), str(second))
    assert (answer.code, f"there is no task {second + 9}" in answer.err) == (4, True)
    assert [line for line in answer.out.splitlines() if line.startswith("task ")] == [
        f"task {first}, kind a, queue default", f"task {second}, kind b, queue default",
    ]  # fmt: skip


def test_a_remedy_is_said_once(here: Here, db: Connection) -> None:
    """The hint replaces the name of the view that lists the peers."""
    answer = here("explain", str(submit(db, "a")))
    assert "peers.peer_status" not in answer.out
    assert "`peers status" in answer.err
    assert "lists the peers" not in answer.out
