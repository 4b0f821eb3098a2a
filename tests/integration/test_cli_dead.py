"""`peers dead` on a real database: list, show, retry and discard."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from peers.cli import bulk
from peers.cli.output import WIDTH
from tests.support.cli import (
    PATIENCE,
    Here,
    bury,
    command,
    environment,
    join,
    peers,
    state,
    submit,
    until,
)
from tests.support.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection

TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/run.py", line 3, in run
    make(path)
  File "/srv/shop/{file}.py", line {line}, in make
    open(path)
{error}: {message}
"""


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands in this process."""
    return Here(database_url, monkeypatch, capsys)


def fail(
    db: Connection, peer: str, kind: str, error: str, message: str, line: int = 9, count: int = 1
) -> list[int]:
    """Submit tasks that die with this error in this line, and return their ids."""
    tasks = [submit(db, kind) for _ in range(count)]
    claimed = db.execute(
        "select token, unnest(task_ids) as task_id from peers.claim(%s, 'default', 1000)", (peer,)
    ).fetchall()
    failures = [
        {
            "task_id": claim["task_id"],
            "token": str(claim["token"]),
            "error_type": error,
            "error_message": f"{message} {claim['task_id']}",
            "traceback": TRACEBACK.format(file="tasks", line=line, error=error, message=message),
            "reject": True,
        }
        for claim in claimed
    ]
    db.execute("select * from peers.fail(%s, %s::jsonb)", (peer, json.dumps(failures)))
    return tasks


def died(db: Connection, tasks: list[int], ago: str) -> None:
    """Let these tasks have died so long ago."""
    with db.transaction():
        db.execute("set local session_replication_role = replica")
        db.execute(
            "update peers.dead set died_at = died_at - %s::interval where task_id = any (%s)",
            (ago, tasks),
        )


def listed(here: Here, *words: str) -> list[int]:
    """Return the ids that `peers dead list` finds, in ascending order."""
    found = here("dead", "list", *words, "--json")
    assert found.code == 0, found.err
    return sorted(letter["task_id"] for letter in found.document["dead_letters"])


# ------------------------------------------------------------------------------------- looking


def test_dead_letters_are_listed_and_shown(database_url: str, db: Connection) -> None:
    """The list names the error in a line, `show` has the whole traceback."""
    peer = join(db, "a", "b")
    first, second = submit(db, "a"), submit(db, "b")
    child = submit(db, "load", after=(first,))
    grandchild = submit(db, "report", after=(child,))
    bury(db, peer, error="bad \x1b[31m " + "x" * 200)
    found = peers("dead", "list", url=database_url, env={"COLUMNS": str(WIDTH)})
    assert (found.code, len(found.out.splitlines())) == (0, 3)
    assert "\x1b" not in found.out
    assert all(len(line) <= WIDTH for line in found.out.splitlines())
    assert "1 more" in peers("dead", "list", "--limit", "1", url=database_url).err
    told = peers("dead", "list", "--kind", "b", "--json", url=database_url).document
    assert (told["total"], told["dead_letters"][0]["task_id"]) == (1, second)
    shown = peers("dead", "show", str(first), url=database_url)
    assert shown.code == 0
    for expected in (
        f"holds      1 child; waiting below it: 1 load ({child}); 1 report ({grandchild})",
        "attempt 1",
        "web1",
        "    Traceback (most recent",
        "in make",
    ):
        assert expected in shown.out
    for hint in ("retry", "discard", "list --cause-of"):
        assert f"peers dead {hint} {first}`" in shown.err
    letter = peers("dead", "show", str(first), "--json", url=database_url).document
    assert (letter["held_children"], len(letter["failures"])) == (1, 1)
    assert [held["task_ids"] for held in letter["held_descendants"]] == [[child], [grandchild]]


def test_filters_find_what_the_verbs_act_on(here: Here, db: Connection) -> None:
    """Each option alone and with others; the bulk verb agrees on every one."""
    peer = join(db, "a", "b")
    old = fail(db, peer, "a", "OSError", "disk full", count=2)
    died(db, old, "3 h")
    new = fail(db, peer, "a", "OSError", "Connection Refused", line=12, count=2)
    other = fail(db, peer, "b", "ValueError", "bad value")
    day_ago = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    for words, wanted in (
        ([], old + new + other),
        (["--kind", "a"], old + new),
        (["--queue", "default"], old + new + other),
        (["--since", "2h"], new + other),
        (["--until", "2h"], old),
        (["--since", day_ago, "--until", "2h"], old),
        (["--error", "connection ref"], new),
        (["--error", "ValueError: bad"], other),
        (["--error-type", "OSError"], old + new),
        (["--frame", "shop/tasks.py:9 in make"], old + other),
        (["--frame", "shop/tasks.py:9 in make", "--kind", "a"], old),
        (["--cause-of", str(new[0])], new),
        (["--kind", "a", "--error", "disk", "--since", "1h"], []),
    ):
        assert listed(here, *words) == sorted(wanted), words
        if words:
            dry = here("dead", "retry", "--dry-run", *words)
            assert dry.out.startswith(f"would retry {len(wanted)} dead letter"), words
    assert here("dead", "list", "--cause-of", "99").code == 4
    assert here("dead", "list", "--cause-of", str(submit(db, "a"))).code == 1


@pytest.mark.parametrize("time", ["yesterday", "2h ago", "2026-13-01"])
def test_a_time_that_cannot_be_read_is_refused(time: str) -> None:
    """Both forms that work are named."""
    found = peers("dead", "list", "--since", time)
    assert found.code == 2
    assert '"2h"' in found.err
    assert '"2026-11-27T03:00"' in found.err


def test_causes_are_grouped_each_with_the_command_that_retries_it(
    here: Here, db: Connection
) -> None:
    """The most frequent one comes first. The command retries this group and no other task."""
    peer = join(db, "a", "it's b")
    rare = fail(db, peer, "a", "OSError", "disk full", line=12)
    often = fail(db, peer, "it's b", "OSError", "disk full", count=3)
    fail(db, peer, "a", "ValueError", "bad")
    found = here("dead", "list", "--by-cause")
    blocks = found.out.split("\n\n")
    assert blocks[0].startswith("3 dead letters of kind it's b, the last one died ")
    assert "OSError, raised in shop/tasks.py:9 in make" in blocks[0]
    assert f"peers dead show {often[-1]}" in blocks[0]
    told = here("dead", "list", "--by-cause", "--json").document
    assert (told["total"], [cause["tasks"] for cause in told["causes"]]) == (5, [3, 1, 1])
    view = "select kind, error_type, frame, tasks, example_id from peers.dead_cause"
    assert {tuple(row.values()) for row in db.execute(view)} == {
        tuple(cause[key] for key in ("kind", "error_type", "frame", "tasks", "example_id"))
        for cause in told["causes"]
    }
    command_line = re.search(r"retry: +peers (.*)", blocks[0])
    assert command_line is not None
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command_line[1]}"], capture_output=True, text=True,
        check=True, timeout=PATIENCE,
    ).stdout.splitlines()  # fmt: skip
    assert here(*words).out == "retried 3 dead letters\n"
    assert {state(db, task) for task in often} == {"ready"}
    assert state(db, rare[0]) == "dead"
    limited = here("dead", "list", "--by-cause", "--limit", "1")
    assert "and 1 more causes: --limit 2 shows all" in limited.err


def test_a_filter_that_matches_nothing_names_near_misses(here: Here, db: Connection) -> None:
    """A kind that is spelt alike, the kinds that there are, and the option that excludes all."""
    assert here("dead", "list").err == "no dead letters\n"
    peer = join(db, "thumbs.make", "b")
    died(db, fail(db, peer, "thumbs.make", "OSError", "disk full", count=2), "1 h")
    fail(db, peer, "b", "OSError", "disk full")
    typo = here("dead", "list", "--kind", "thumb.make")
    assert typo.err.splitlines() == [
        'no dead letter of kind thumb.make (did you mean "thumbs.make"?); '
        "kinds with dead letters: thumbs.make (2), b (1)",
        'No peer has a handler for the kind "thumb.make". Check the name.',
    ]
    moved = here("dead", "list", "--frame", "shop/tasks.py:10 in make")
    assert moved.err.splitlines() == [
        'no dead letter of frame shop/tasks.py:10 in make (did you mean "shop/tasks.py:9 in make"?)'
        "; frames with dead letters: shop/tasks.py:9 in make (3)"
    ]
    recent = here("dead", "retry", "--kind", "thumbs.make", "--since", "10m")
    assert (recent.code, recent.out) == (0, "retried 0 dead letters\n")
    assert recent.err.splitlines() == [
        "no dead letter matches", "1 dead letter without --kind", "2 dead letters without --since",
    ]  # fmt: skip


def test_the_kept_log_is_shown(here: Here, db: Connection) -> None:
    """Its end, with the command that shows all, without colours and control characters."""
    peer = join(db, "a")
    [task] = fail(db, peer, "a", "OSError", "disk full")
    assert "log of attempt" not in here("dead", "show", str(task)).out
    text = "".join(f"\x1b[31mline\x07 {n}\n" for n in range(30))
    db.execute(
        "insert into peers.task_log (task_id, token, attempt, peer_id, outcome, size, cut, text,"
        " stored_at) select %s, token, 1, %s, 'failed', 99, false, %s, now()"
        " from peers.failure where task_id = %s",
        (task, peer, text, task),
    )
    shown = here("dead", "show", str(task)).out
    log = shown.partition("log of attempt 1\n")[2].splitlines()
    assert log[0] == f"    … `peers log {task}` shows more"
    assert (len(log), log[1], log[-1]) == (21, "    line\\x07 10", "    line\\x07 29")
    assert here("dead", "show", str(task), "--json").document["log"]["text"] == text


# ------------------------------------------------------------------------------------- changing


def test_dead_letters_are_retried(database_url: str, db: Connection) -> None:
    """By id with other args; by kind; and what is no dead letter is refused."""
    peer = join(db, "a", "b")
    first, second, third = submit(db, "a"), submit(db, "a"), submit(db, "b")
    bury(db, peer)
    found = peers("dead", "retry", str(first), "--args", '{"n": 1e400}', url=database_url)
    assert (found.code, found.out) == (0, "retried 1 dead letter\n")
    [row] = db.execute("select args::text, state::text from peers.task where id = %s", (first,))
    assert row == {"args": f'{{"n": 1{"0" * 400}}}', "state": "ready"}
    again = peers("dead", "retry", str(first), str(second), "99", url=database_url)
    assert (again.code, again.out) == (1, "retried 1 dead letter\n")
    assert "not a dead letter" in again.err
    assert "there is no task 99" in again.err
    assert peers("dead", "retry", "--kind", "b", url=database_url).out == "retried 1 dead letter\n"
    assert state(db, third) == "ready"


def test_a_dry_run_says_what_would_happen_and_changes_nothing(here: Here, db: Connection) -> None:
    """How many dead letters, and which children run after them or end with them."""
    peer = join(db, "a")
    first, second = submit(db, "a"), submit(db, "a")
    child = submit(db, "load", after=(first,))
    report = submit(db, "report", after=(child,))
    bury(db, peer)
    retry = here("dead", "retry", "--kind", "a", "--dry-run")
    assert retry.out.splitlines() == [
        f"would retry 2 dead letters ({first}, {second}); 2 held children can run after them",
        f"  1 load ({child})",
        f"  1 report ({report})",
    ]
    discard = here("dead", "discard", str(first), "--dry-run")
    assert discard.out.splitlines()[0] == (
        f"would discard 1 dead letter ({first}); 2 held children also cancelled"
    )
    assert [state(db, task) for task in (first, second, child)] == ["dead", "dead", "blocked"]
    assert db.execute("select from peers.action").fetchall() == []
    real = here("dead", "discard", str(first), "--reason", "gone for good")
    assert real.out == "discarded 1 dead letter; 2 held children also cancelled\n"
    [action] = db.execute("select verb, tasks, children, reason, client from peers.action")
    assert action == {
        "verb": "discard_dead", "tasks": 1, "children": 2, "reason": "gone for good",
        "client": "peers dead discard",
    }  # fmt: skip


def test_dead_letters_are_discarded_in_bulk(database_url: str, db: Connection) -> None:
    """--all takes every one, and the children that they hold are cancelled."""
    peer = join(db, "a")
    first = submit(db, "a")
    submit(db, "a")
    held = submit(db, "a", after=(first,))
    bury(db, peer)
    found = peers("dead", "discard", "--all", url=database_url)
    assert (found.code, found.out) == (
        0, "discarded 2 dead letters; 1 held child also cancelled\n",
    )  # fmt: skip
    assert state(db, held) == "cancelled"
    none = peers("dead", "discard", "--all", url=database_url)
    assert (none.code, none.out) == (0, "discarded 0 dead letters\n")


def test_batches_retry_each_task_once(
    here: Here, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that dies again between two batches is not retried again: that might never end."""
    peer = join(db, "a")
    tasks = fail(db, peer, "a", "OSError", "disk full", count=5)
    monkeypatch.setattr(bulk, "BATCH", 2)
    real = bulk._call
    calls = []

    def call(*arguments: object, **options: bool) -> object:
        row = real(*arguments, **options)  # type: ignore[arg-type]
        calls.append(row["tasks"])
        bury(db, peer)  # they die again at once
        return row

    monkeypatch.setattr(bulk, "_call", call)
    assert here("dead", "retry", "--kind", "a").out == "retried 5 dead letters\n"
    assert calls == [2, 2, 1]
    assert {state(db, task) for task in tasks} == {"dead"}


def test_an_interrupted_command_says_how_far_it_went(
    database_url: str, db: Connection, connect: Callable[[], Connection]
) -> None:
    """Batches that were done stay done; the batch in progress is rolled back."""
    peer = join(db, "a")
    db.execute("insert into peers.task (kind) select 'a' from generate_series(1, 2500)")
    while bury(db, peer):
        pass
    [last] = db.execute("select max(task_id) as id from peers.dead")
    watching = connect()
    with db.transaction():
        # the third batch waits for this row
        db.execute("select 1 from peers.dead where task_id = %s for update", (last["id"],))
        process = subprocess.Popen(
            command("dead", "retry", "--all"), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=environment(database_url),
        )  # fmt: skip
        waiting = (
            "select 1 from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database()"
        )
        until(lambda: watching.execute(waiting).fetchone(), "the batch waits")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert "stopped: at least 2,000 of 2,500 tasks retried" in err
    assert state(db, last["id"]) == "dead"


def test_progress_is_shown_on_a_terminal(database_url: str, db: Connection) -> None:
    """After each batch, in one line of stderr."""
    peer = join(db, "a")
    db.execute("insert into peers.task (kind) select 'a' from generate_series(1, 2500)")
    while bury(db, peer):
        pass
    with Screen("dead", "retry", "--all", url=database_url) as screen:
        assert screen.end() == 0
        for done in ("1,000", "2,000", "2,500"):
            assert f"\r{done} of 2,500 tasks" in screen.raw
        assert "retried 2,500 dead letters" in screen.raw


def test_an_error_among_several_names_a_command(database_url: str, db: Connection) -> None:
    """Not a function or view of SQL."""
    answer = peers("dead", "retry", str(submit(db, "a")), url=database_url)
    assert "dead list" in answer.err
    assert "peers.dead_letter" not in answer.err
