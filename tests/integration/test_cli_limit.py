"""`peers limit`: what each command prints and does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Answer, Here
from tests.support.world import Peer, run, value

if TYPE_CHECKING:
    from tests.support.server import Connection


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands on the test's database."""
    return Here(database_url, monkeypatch, capsys)


def done(answer: Answer) -> str:
    """Return the output of a command that has succeeded."""
    assert answer.code == 0, answer
    return answer.out


def submit(db: Connection, *accounts: int) -> list[int]:
    """Submit a task of kind `a` for each of the accounts."""
    insert = "insert into peers.task (kind, args) values ('a', jsonb_build_object('account', %s))"
    return [value(db, insert + " returning id", account) for account in accounts]


def test_a_limit_is_set_and_changed(here: Here, db: Connection) -> None:
    """Every option arrives; what is not named stays; "none" clears it."""
    printed = done(
        here(
            "limit", "set", "stripe", "--kind", "a", "--key", "account", "--max-running", "8",
            "--starts", "10", "--per", "1s", "--weight", "tokens", "--fair", "--learns",
        )
    )  # fmt: skip
    assert printed == (
        'limit "stripe" is created: 8 by tokens, 10 in 1s, fair, learns for each account,'
        " of kind a\n"
    )
    printed = done(here("limit", "set", "stripe", "--max-running", "2", "--weight", "none"))
    assert '"stripe" is changed: 2 running, 10 in 1s, fair, learns for each account' in printed
    printed = done(here("limit", "set", "stripe", "--no-fair", "--no-learns", "--queue", "q"))
    assert "2 running, 10 in 1s for each account, of queue q" in printed
    row = db.execute('select * from peers."limit"').fetchone()
    assert row is not None
    assert (row["kind"], row["queue"], row["fair"], row["learns"]) == (None, "q", False, False)
    assert row["per"].total_seconds() == 1


def test_a_malformed_limit_is_refused(here: Here) -> None:
    """The reason names the bound, and nothing is written."""
    for words, said in (
        (("--kind", "a"), "a limit needs --max-running"),
        (("--max-running", "1"), "give either a kind or a queue"),
        (("--kind", "a", "--max-running", "2000000"), "1 to 1000000, not 2000000"),
        (("--kind", "a", "--starts", "2"), "--starts and --per belong together"),
        (("--kind", "a", "--starts", "2", "--per", "1ms"), "--per must be 10 milliseconds"),
        (("--kind", "a", "--key", "a..b", "--max-running", "1"), "key of a limit must be a path"),
    ):
        answer = here("limit", "set", "x", *words)
        assert (answer.code, said in answer.err) == (2, True), answer
        assert "For example: peers limit set x --kind invoice.charge" in answer.err
        assert "INSERT" not in answer.err
    with pytest.raises(SystemExit, match="2"):
        here("limit", "set", "x")
    assert here("limit", "list").err == "no limits\n"


def test_list_and_show(here: Here, db: Connection) -> None:
    """What runs and waits, of which keys, and whether it is open."""
    done(here("limit", "set", "stripe", "--kind", "a", "--key", "account", "--max-running", "2"))
    submit(db, 7, 7, 7, 7, 8)
    run(db, "select peers.place_limited()")
    heading, line = done(here("limit", "list")).splitlines()
    assert heading.split() == [
        "LIMIT", "OF", "KEY", "ALLOWS", "RUNNING", "WAITING", "NOW", "DECLARED",
    ]  # fmt: skip
    assert line.split() == [
        "stripe",
        "kind",
        "a",
        "account",
        "2",
        "running",
        "0",
        "5",
        "open",
        "no",
    ]
    shown = done(here("limit", "show", "stripe"))
    assert [part.split() for part in shown.splitlines()[-3:]] == [
        ["KEY", "RUNNING", "WAITING"], ["7", "0", "4"], ["8", "0", "1"],
    ]  # fmt: skip
    assert re.search(r"changed  +[-0-9]+ [:0-9]+ UTC\n", shown)
    document = here("limit", "show", "stripe", "--keys", "1", "--json").document
    assert [key["key"] for key in document["keys"]] == ["7"]
    assert (document["waiting"], document["shut"], document["origin"]) == (5, False, "no")
    [listed] = here("limit", "list", "--json").document["limits"]
    assert (listed["name"], listed["max_running"], listed["shut_until"]) == ("stripe", 2, None)
    assert here("limit", "show", "none").code == 4


def test_explain_names_who_holds_the_lock_of_a_key(here: Here, db: Connection) -> None:
    """With the command that shows the limit."""
    done(here("limit", "set", "stripe", "--kind", "a", "--key", "account", "--max-running", "2"))
    [task] = submit(db, 7)
    Peer.join(db)
    run(
        db,
        "select pg_advisory_lock(1886152051, (limit_keys[1] >> 32)::integer)"
        " from peers.ready_limited",
    )
    answer = here("explain", str(task))
    assert 'Ready, but limit "stripe" is locked for account 7 by session' in answer.out
    assert "`peers limit show stripe` shows" in answer.err
    submit(db, 8, 8)  # more of them wait
    shown = here("limit", "show", "stripe", "--keys", "1")
    pid = value(db, "select pg_backend_pid()")
    assert [part.split() for part in shown.out.splitlines()[-2:]] == [
        ["KEY", "RUNNING", "WAITING", "LOCKED", "BY"], ["7", "0", "1", str(pid)],
    ]  # fmt: skip
    assert f"session {pid} " in shown.err
    assert "has locked the key of account 7: no task of it starts" in shown.err
    assert f"SELECT pg_terminate_backend({pid}) ends it" in shown.err
    run(db, "select pg_advisory_unlock_all()")
    assert "LOCKED" not in here("limit", "show", "stripe").out


def test_a_path_that_no_task_has_says_so(here: Here, db: Connection) -> None:
    """A typing error in a key or weight, if there are tasks of the kind; it is set all the same."""
    words = ("limit", "set", "l", "--kind", "a", "--max-running", "2")
    assert here(*words, "--key", "acount").err == ""
    submit(db, 7)
    answer = here(*words, "--key", "acount", "--weight", "account")
    assert answer.code == 0
    assert "No recent task of kind a has a value at acount in args: check the path." in answer.err
    assert "value at account" not in answer.err
    run(db, "insert into peers.task (kind, queue) values ('b', 'q')")
    of_queue = here("limit", "set", "q", "--queue", "q", "--max-running", "2", "--key", "account")
    assert "No recent task of queue q has a value at account in args" in of_queue.err
    assert here(*words, "--key", "account", "--weight", "none").err == ""


def test_shut_and_open(here: Here, db: Connection) -> None:
    """For a time or until it is opened; status and show say so."""
    done(here("limit", "set", "l", "--kind", "a", "--max-running", "2"))
    assert "for 1m30s" in done(here("limit", "shut", "l", "--for", "90s", "--reason", "HTTP 429"))
    assert "HTTP 429" in done(here("limit", "show", "l"))
    assert "shut for 1m" in done(here("limit", "list"))
    assert "shut for 1m" in done(here("status")), "a time that passes is no problem"
    assert done(here("limit", "open", "l")) == 'limit "l" is open\n'
    assert done(here("limit", "open", "l")) == 'limit "l" was not shut\n'
    assert "until it is opened" in done(here("limit", "shut", "l"))
    status = here("status")
    assert (status.code, '! limit "l" is shut: peers limit open l' in status.out) == (1, True)
    assert here("status", "--json").document["limits"][0]["shut"] is True
    assert value(db, "select shut_until = 'infinity' from peers.limit")
    past = here("limit", "shut", "l", "--until", "2020-01-01T00:00Z")
    assert (past.code, "--until must be a time in the future" in past.err) == (2, True)
    assert "`peers limit open l` opens the limit" in past.err
    for given in ("0s", "4000d"):
        wrong = here("limit", "shut", "l", "--for", given)
        assert (wrong.code, "--for must be more than 0 and at most 10 years" in wrong.err) == (
            2, True,
        )  # fmt: skip
        assert "`peers limit open l` opens the limit" in wrong.err


def test_a_limit_of_what_no_peer_runs_says_so(here: Here, db: Connection) -> None:
    """A kind or a queue with a typing error, if peers run at all."""
    for place, said in (("--kind", "kind typo"), ("--queue", "queue typo")):
        words = ("limit", "set", said, place, "typo", "--max-running", "1")
        assert here(*words).err == ""
        peer = Peer.join(db)
        assert f"No running peer serves {said}: check the name." in here(*words).err
        assert f'limit "{said}": no running peer serves {said}' in here("limit", "list").err
        peer.leave()
    Peer.join(db, "typo", queues=("typo",))
    assert here("limit", "list").err == ""


def test_remove(here: Here, db: Connection) -> None:
    """The tasks run without it; a limit that code declares comes back."""
    done(here("limit", "set", "l", "--kind", "a", "--max-running", "2"))
    assert done(here("limit", "remove", "l")) == 'limit "l" is removed\n'
    assert here("limit", "remove", "l").code == 4
    peer = Peer.join(db)
    declared = '[{"name": "l", "kind": "a", "max_running": 2}]'
    run(db, "select peers.declare_limits(%s, %s)", peer.id, declared)
    assert done(here("limit", "list")).splitlines()[1].split()[-1] == "yes"
    answer = here("limit", "set", "l", "--max-running", "1")
    assert "kept until the declaration itself changes" in answer.err
    assert "changed by operator" in done(here("limit", "list"))
    answer = here("limit", "remove", "l")
    assert "the next peer that joins creates it again" in answer.err


def test_a_limit_that_nobody_declares_any_more_says_so(here: Here, db: Connection) -> None:
    """It stays, and holds."""
    declared = '[{"name": "l", "kind": "a", "max_running": 2}]'
    first = Peer.join(db)
    run(db, "select peers.declare_limits(%s, %s)", first.id, declared)
    first.leave()
    assert done(here("limit", "list")).splitlines()[1].endswith("yes"), "no peer runs"
    Peer.join(db)
    assert done(here("limit", "list")).splitlines()[1].endswith("no longer")


def test_explain_names_the_command_that_shows_the_limit(here: Here, db: Connection) -> None:
    """The sentence says which tasks run, and the hint what to type."""
    done(here("limit", "set", "stripe", "--kind", "a", "--key", "account", "--max-running", "2"))
    tasks = submit(db, 7, 7, 7)
    peer = Peer.join(db)
    run(db, "select * from peers.claim_limited(%s, 'default', 10, 10, '{}', null)", peer.id)
    answer = here("explain", str(tasks[2]))
    assert 'limit "stripe" is full for account 7: 2 of 2 are running' in answer.out
    assert f"(tasks {tasks[0]}, {tasks[1]}), none is ahead" in answer.out
    assert "`peers limit show stripe` shows what runs and waits" in answer.err
