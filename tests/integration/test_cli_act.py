"""Commands that change something, as real processes on a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.cli import join, peers, state, submit

if TYPE_CHECKING:
    from tests.support.server import Connection


# --------------------------------------------------------------------------------------- acting


def test_cancel_ends_several_and_reports_each(database_url: str, db: Connection) -> None:
    """One that isn't there stops none of the others; the exit code tells of it."""
    first, second = submit(db, "a"), submit(db, "a")
    found = peers("cancel", str(first), "99", str(second), url=database_url)
    assert (found.code, state(db, first), state(db, second)) == (4, "cancelled", "cancelled")
    assert found.out.splitlines() == [f"task {first} is cancelled", f"task {second} is cancelled"]
    assert "there is no task 99" in found.err


def test_cancel_of_what_runs_tells_its_peer(database_url: str, db: Connection) -> None:
    """A running task is asked to stop."""
    peer, task = join(db, "a"), submit(db, "a")
    db.execute("select * from peers.claim(%s, 'default', 1)", (peer,))
    found = peers("cancel", str(task), url=database_url)
    assert (found.code, found.out) == (0, f"task {task} is running: its handler is being stopped\n")


def test_change_changes_only_what_is_named(database_url: str, db: Connection) -> None:
    """Priority and time change; args stay."""
    task = int(peers("submit", "a", "x=1", url=database_url).out)
    found = peers("change", str(task), "--priority", "-3", "--in", "1h", url=database_url)
    assert found.code == 0, found.err
    [row] = db.execute("select priority, args, state::text from peers.task")
    assert row == {"priority": -3, "args": {"x": 1}, "state": "scheduled"}


def test_pause_and_resume(database_url: str, db: Connection) -> None:
    """A queue that nobody knows is paused all the same, but doubted aloud."""
    join(db, "a")
    known = peers("pause", "default", url=database_url)
    assert (known.code, known.err) == (0, "")
    assert "Check the name." in peers("pause", "defautl", url=database_url).err
    assert db.execute("select count(*) as n from peers.paused_queue").fetchall() == [{"n": 2}]
    assert "is resumed" in peers("resume", "default", url=database_url).out
    assert "was not paused" in peers("resume", "default", url=database_url).out
