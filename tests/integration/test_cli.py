"""Schema, submission and looking: the commands as real processes on a real database."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from peers.cli.output import WIDTH
from peers.database.schema import changes_tables
from tests.support.cli import Here, bury, join, peers, state, submit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Connection


# --------------------------------------------------------------------------------- the schema


def test_migrate_creates_the_schema_and_says_what_it_applied(empty_database_url: str) -> None:
    """A dry run changes nothing; then the files are applied in order, and the schema is of use."""
    dry = peers("migrate", "--dry-run", url=empty_database_url)
    assert (dry.code, dry.out.splitlines()[0]) == (0, "00_schema.sql")
    assert peers("status", url=empty_database_url).code == 78
    real = peers("migrate", "--json", url=empty_database_url)
    assert real.document == {"dry_run": False, "files": dry.out.splitlines()}
    assert peers("status", url=empty_database_url).code == 0  # nothing needs attention
    again = peers("migrate", "--dry-run", url=empty_database_url)
    assert again.out.splitlines() == [
        file for file in dry.out.splitlines() if not changes_tables(file)
    ]
    assert re.match(r"would apply: \d+ new files with tables, and \d\d files with", dry.err)
    assert re.match(
        r"would apply: no new tables; \d\d files with functions, applied each", again.err
    )


def test_migrate_prints_what_was_new(empty_database_url: str) -> None:
    """The files that change tables, once; not those with functions, which it applies each time."""
    files = peers("migrate", "--dry-run", url=empty_database_url).out.splitlines()
    first = peers("migrate", url=empty_database_url)
    assert first.out.splitlines() == [file for file in files if changes_tables(file)] != []
    again = peers("migrate", url=empty_database_url)
    assert (again.code, again.out) == (0, "")
    assert re.fullmatch(
        r"applied: no new tables; \d\d files with functions, applied each time\."
        r" The schema is up to date\.\n",
        again.err,
    )


def test_check_finds_what_is_wrong_and_mends_it(database_url: str, db: Connection) -> None:
    """Exit code 1 while a problem remains, 0 once it is repaired."""
    assert peers("check", url=database_url).code == 0
    task = submit(db, "a")
    db.execute("set session_replication_role = replica")
    db.execute("update peers.task set pending_parents = 3 where id = %s", (task,))
    found = peers("check", "--json", url=database_url)
    assert found.code == 1
    assert [(each["task_id"], each["repaired"]) for each in found.document["problems"]] == [
        (task, False)
    ]
    repaired = peers("check", "--repair", url=database_url)
    assert (repaired.code, "pending_parents is 3" in repaired.out) == (0, True)
    assert peers("check", url=database_url).code == 0


def test_config_shows_every_setting_with_its_origin_and_no_secret(tmp_path: Path) -> None:
    """Flags, variables, files and defaults are told apart; it needs no database."""
    file = tmp_path / "peers.toml"
    file.write_text('queues = "media=2"\n')
    found = peers(
        "config", "--json", "--config", str(file), url="postgresql://me:secret@db.test/shop"
    )
    assert found.code == 0
    assert found.document["queues"] == {"value": "media=2", "origin": str(file)}
    assert found.document["database_url"]["origin"] == "PEERS_DATABASE_URL"
    assert found.document["lease_timeout"] == {"value": "30s", "origin": "default"}
    assert "secret" not in found.out
    assert "secret" not in peers("config", url="postgresql://me:secret@db.test/shop").out


def test_prune_deletes_what_ended(database_url: str, db: Connection) -> None:
    """Ended tasks go, waiting ones stay, and the number is told."""
    ended, waiting = submit(db, "a"), submit(db, "a")
    db.execute("select peers.cancel(%s)", (ended,))
    found = peers("prune", "--keep-completed", "0s", url=database_url)
    assert (found.code, found.out) == (0, "deleted 1 task\n")
    assert state(db, waiting) == "ready"


# ----------------------------------------------------------------------------------- submitting


def test_submit_passes_args_and_options(database_url: str, db: Connection) -> None:
    """Values are JSON where they read as JSON, else strings, also behind options."""
    first = int(peers("submit", "a", url=database_url).out)
    found = peers(
        "submit", "thumbs.make", "path=/srv/a=b.png", "--priority", "7", "width=256",
        'tags=["x"]', "nan=NaN", "--args", '{"width": 1, "deep": {"n": null}}', "--queue", "media",
        "--in", "1h", "--after", str(first), "--on-parent-failure", "run", "--key", "k1",
        "--max-attempts", "3", "--timeout", "90s", "--metadata", '{"by": "me"}', url=database_url,
    )  # fmt: skip
    assert found.code == 0
    [row] = db.execute(
        "select *, scheduled_at - created_at as wait from peers.task where id = %s",
        (int(found.out),),
    )
    assert row["args"] == {
        "path": "/srv/a=b.png", "width": 256, "tags": ["x"], "nan": "NaN", "deep": {"n": None},
    }  # fmt: skip
    assert (row["queue"], row["priority"], row["max_attempts"]) == ("media", 7, 3)
    assert (row["timeout"].total_seconds(), row["metadata"]) == (90, {"by": "me"})
    assert 3590 < row["wait"].total_seconds() < 3700
    [edge] = db.execute("select parent_id, on_parent_failure::text from peers.dependency")
    assert edge == {"parent_id": first, "on_parent_failure": "run"}
    again = peers("submit", "thumbs.make", "--key", "k1", url=database_url)
    assert again.out == found.out


def test_submit_reads_large_args_from_standard_input(database_url: str, db: Connection) -> None:
    """What no command line could hold goes through a pipe."""
    found = peers(
        "submit", "a", "--args", "-", url=database_url, stdin='{"n": "%s"}' % ("x" * 500_000)
    )
    assert found.code == 0
    [row] = db.execute("select length(args ->> 'n') as n from peers.task")
    assert row["n"] == 500_000


# -------------------------------------------------------------------------------------- looking


def test_status_shows_queues_peers_and_problems(database_url: str, db: Connection) -> None:
    """An operator sees who lives, who is lost, what nobody can run, and what to type next."""
    lost, alive = join(db, "a"), join(db, "a")
    dead = submit(db, "a")
    bury(db, alive)
    submit(db, "a", after=(dead,))
    submit(db, "nobody.runs." + "x" * 150)
    db.execute("select peers.pause('media')")
    db.execute(
        "update peers.peer set heartbeat_at = heartbeat_at - interval '1 h' where id = %s", (lost,)
    )
    narrow = {"COLUMNS": str(WIDTH)}
    found = peers("status", "--running", url=database_url, env=narrow)
    assert found.code == 1
    for expected in ("alive", "lost", "web1", "default=4", "1h00m ago", "paused", "nothing runs"):
        assert expected in found.out
    assert "! 1 dead letter: peers dead list --by-cause" in found.out
    assert '! queue "media" is paused: peers resume media' in found.out
    assert '! no live peer runs kind "nobody.runs.' in found.out
    assert "(no live peer has a handler for it)" in found.out
    assert all(len(line) <= WIDTH for line in found.out.splitlines() if line[:1] != "!")
    answer = peers("status", "--json", url=database_url)
    told = answer.document
    assert (answer.code, len(told["problems"])) == (1, 3)
    [default] = [queue for queue in told["queues"] if queue["queue"] == "default"]
    assert (default["ready"], default["blocked"], default["dead"], told["dead"]) == (1, 1, 1, 1)
    assert {peer["peer_id"]: peer["alive"] for peer in told["peers"]} == {lost: False, alive: True}
    assert [kind["tasks"] for kind in told["unrunnable"]] == [1]


def test_status_says_that_the_queue_is_missing_and_not_the_handler(
    database_url: str, db: Connection
) -> None:
    """A live peer has the handler, and serves another queue."""
    join(db, "a", queue="media")
    submit(db, "a")
    found = peers("status", url=database_url)
    assert 'runs kind "a" in queue "default" (the live peers with a handler for it do' in found.out


def test_status_tells_what_was_completed_and_for_how_long_peers_have_been_there(
    database_url: str, db: Connection
) -> None:
    """Queues where all is done are there; a living peer's time goes on, a lost one's has ended."""
    lost, alive = join(db, "a"), join(db, "a")
    for peer, heartbeat in ((alive, "0 s"), (lost, "2 h")):
        db.execute(
            "update peers.peer set joined_at = joined_at - interval '3 h',"
            " heartbeat_at = heartbeat_at - %s::interval where id = %s",
            (heartbeat, peer),
        )
    done = [{"queue": queue, "kind": "a", "completed": 600} for queue in ("w", "x", "y")]
    db.execute("select peers.record_metrics(%s, %s::jsonb)", (alive, json.dumps(done)))
    for queue, ago in (("x", "30 min"), ("y", "2 h")):
        db.execute(
            "update peers.metric set minute = minute - %s::interval"
            " where queue = %s and minute > '-infinity'",
            (ago, queue),
        )
    found = peers("status", url=database_url)
    assert found.code == 0, found
    cells = [line.split() for line in found.out.splitlines()]
    [x] = [row for row in cells if row[:1] == ["x"]]
    assert x == ["x", "0", "0", "0", "0", "0", "0", "0", "600"]
    [w] = [row for row in cells if row[:1] == ["w"]]
    assert w == ["w", "0", "0", "0", "0", "0", "2.0", "0", "600"]
    assert not [row for row in cells if row[:1] == ["y"]]
    up = {row[1]: row[7] for row in cells if row[1:2] in (["alive"], ["lost"])}
    assert up["alive"].startswith("3h00m")
    assert up["lost"].startswith("1h00m")


@pytest.mark.parametrize("columns", ["60", "80", "160"])
def test_status_fits_the_terminal(
    database_url: str,
    db: Connection,
    columns: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No line of a table is longer than the terminal."""
    db.execute("select peers.pause('a queue with a name that is long')")
    join(db, "a", "b", queue="another queue with a long name, 70 characters of it, or a few more")
    monkeypatch.setenv("COLUMNS", columns)
    found = Here(database_url, monkeypatch, capsys)("status")
    longest = max(len(line) for line in found.out.splitlines() if line[:1] != "!")
    assert longest <= int(columns)
    assert ("HEARTBEAT" in found.out) == (columns != "60")
    assert ("a few more" in found.out) == (columns == "160")


def test_a_table_in_a_pipe_is_not_cut(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads it needs whole values."""
    monkeypatch.delenv("COLUMNS", raising=False)
    error = "no such file " * 20 + "in the end"
    submit(db, "a")
    bury(db, join(db, "a"), error=error)
    found = peers("dead", "list", url=database_url)
    assert found.out.splitlines()[1].endswith(error)


def test_status_shows_what_runs_and_how_far_it_is(database_url: str, db: Connection) -> None:
    """The task, its peer and its progress."""
    peer, task = join(db, "a"), submit(db, "a")
    [lease] = db.execute("select * from peers.claim(%s, 'default', 1)", (peer,))
    db.execute("select peers.progress(%s, %s, %s, 3, 7)", (peer, task, lease["token"]))
    found = peers("status", "--running", url=database_url)
    assert "3/7" in found.out
    [running] = peers("status", "--running", "--json", url=database_url).document["running"]
    assert (running["task_id"], running["peer_id"], running["progress_total"]) == (task, peer, 7)


def test_explain_tells_why_and_what_failed(database_url: str, db: Connection) -> None:
    """The sentence of the database, the failures so far, and the whole task in JSON."""
    peer, task = join(db, "a"), submit(db, "a")
    bury(db, peer)
    found = peers("explain", str(task), url=database_url)
    assert (found.code, "Dead since" in found.out) == (0, True)
    assert "OSError: no such file" in found.out.splitlines()[-1]
    assert f"peers dead show {task}" in found.err
    assert f"peers dead retry {task}" in found.err
    child = submit(db, "a", after=(task,))
    assert f"peers dead retry {task}`" in peers("explain", str(child), url=database_url).err
    db.execute("select peers.pause('default')")
    waiting = submit(db, "a")
    assert "`peers resume default`" in peers("explain", str(waiting), url=database_url).err
    told = peers("explain", str(task), "--json", url=database_url).document
    assert (told["id"], told["state"], len(told["failures"])) == (task, "dead", 1)
    assert told["explanation"].startswith("Dead since")
