"""Commands that change something, as real processes on a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.cli.output import WIDTH
from tests.support.cli import bury, join, peers, state, submit

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


# --------------------------------------------------------------------------------- dead letters


def test_dead_letters_are_listed_and_shown(database_url: str, db: Connection) -> None:
    """The list names the error in a line, `show` has the whole traceback."""
    peer = join(db, "a", "b")
    first, second = submit(db, "a"), submit(db, "b")
    submit(db, "a", after=(first,))
    bury(db, peer, error="bad \x1b[31m " + "x" * 200)
    listed = peers("dead", "list", url=database_url, env={"COLUMNS": str(WIDTH)})
    assert (listed.code, len(listed.out.splitlines())) == (0, 3)
    assert "\x1b" not in listed.out
    assert all(len(line) <= WIDTH for line in listed.out.splitlines())
    assert "1 more" in peers("dead", "list", "--limit", "1", url=database_url).err
    assert (
        "no dead letters\nNo peer has"
        in peers("dead", "list", "--kind", "aa", url=database_url).err
    )
    told = peers("dead", "list", "--kind", "b", "--json", url=database_url).document
    assert (told["total"], told["dead_letters"][0]["task_id"]) == (1, second)
    shown = peers("dead", "show", str(first), url=database_url)
    assert shown.code == 0
    for expected in (
        "holds    1 child",
        "attempt 1",
        "web1",
        "    Traceback (most recent",
        "in make",
    ):
        assert expected in shown.out
    letter = peers("dead", "show", str(first), "--json", url=database_url).document
    assert (letter["held_children"], len(letter["failures"])) == (1, 1)


def test_dead_letters_are_retried(database_url: str, db: Connection) -> None:
    """By id with other args; by kind; and what is no dead letter is refused."""
    peer = join(db, "a", "b")
    first, second, third = submit(db, "a"), submit(db, "a"), submit(db, "b")
    bury(db, peer)
    found = peers("dead", "retry", str(first), "--args", '{"n": 2}', url=database_url)
    assert (found.code, found.out) == (0, "retried 1 dead letter\n")
    [row] = db.execute("select args, state::text from peers.task where id = %s", (first,))
    assert row == {"args": {"n": 2}, "state": "ready"}
    again = peers("dead", "retry", str(first), str(second), url=database_url)
    assert (again.code, again.out) == (1, "retried 1 dead letter\n")
    assert "not a dead letter" in again.err
    assert peers("dead", "retry", "--kind", "b", url=database_url).out == "retried 1 dead letter\n"
    assert state(db, third) == "ready"


def test_dead_letters_are_discarded_in_bulk(database_url: str, db: Connection) -> None:
    """--all takes every one, and the children that they hold are cancelled."""
    peer = join(db, "a")
    first = submit(db, "a")
    submit(db, "a")
    held = submit(db, "a", after=(first,))
    bury(db, peer)
    found = peers("dead", "discard", "--all", url=database_url)
    assert (found.code, found.out) == (0, "discarded 2 dead letters\n")
    assert state(db, held) == "cancelled"
    none = peers("dead", "discard", "--all", url=database_url)
    assert (none.code, none.out) == (0, "discarded 0 dead letters\n")


def test_an_error_among_several_names_a_command(database_url: str, db: Connection) -> None:
    """Not a function or view of SQL."""
    answer = peers("dead", "retry", str(submit(db, "a")), url=database_url)
    assert "dead list" in answer.err
    assert "peers.dead_letter" not in answer.err
