"""docs/howto/backup.md: what the page says about a dump and its restore, on two servers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import pytest

from peers.embedded import throwaway
from peers.testing import Database
from peers.testing.inline_peer import InlinePeer
from tests.sql.limit_scenarios import claim_limited
from tests.support.server import open_connection
from tests.support.world import Peer, advance, column, problems, row, run, states, submit, value

if TYPE_CHECKING:
    from peers.embedded import EmbeddedPostgres
    from tests.support.server import Connection

_PATIENCE = 60


class Saved(NamedTuple):
    """A database with a task in each state, its ids, and another server."""

    url: str
    tasks: dict[str, int]
    programs: Path
    other: EmbeddedPostgres


@pytest.fixture(scope="module")
def saved() -> Iterator[Saved]:
    """A database in the middle of its work."""
    with throwaway() as one, throwaway() as other:
        if not os.access(one.bin / "pg_dump", os.X_OK):
            pytest.skip("this Postgres has no pg_dump")
        with closing(open_connection(one.url("postgres"))) as admin:
            run(admin, "create database shop")
        with Database(one.url("shop")) as database:
            database.migrate()
        with closing(open_connection(one.url("shop"))) as db:
            yield Saved(one.url("shop"), _fill(db), one.bin, other)


def _fill(db: Connection) -> dict[str, int]:
    peer = Peer.join(db, "a", "b")
    run(db, "insert into peers.limit (name, kind, max_running) values ('l', 'b', 1)")
    run(db, "insert into peers.schedule (name, cron, kind) values ('s', '@daily', 'a')")
    run(db, "create table app as select 7 as n")
    completed = submit(db)
    peer.complete(*peer.claim(), result=5)
    running = submit(db)
    peer.claim()
    dead = submit(db)
    peer.fail(*peer.claim(), reject=True)
    return {
        "completed": completed, "running": running, "dead": dead, "ready": submit(db),
        "scheduled": submit(db, scheduled_at="2100-01-01"),
        "blocked": submit(db, depends_on=[running]),
        "limited": submit(db, "b"),
    }  # fmt: skip


def _call(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, words)), cwd=folder, capture_output=True, text=True, timeout=_PATIENCE,
        check=False,
    )  # fmt: skip


def _new_database(saved: Saved, name: str) -> str:
    with closing(open_connection(saved.other.url("postgres"))) as admin:
        run(admin, f"drop database if exists {name} with (force)")
        run(admin, f"create database {name}")
    return saved.other.url(name)


def _restore_all(saved: Saved, folder: Path) -> str:
    """Do what the page says, and return the URL of the restored database."""
    bin_, url = saved.programs, _new_database(saved, "shop")
    done = _call(
        bin_ / "pg_dump", "--format", "custom", "--file", "shop.dump", saved.url, folder=folder
    )
    assert done.returncode == 0, done.stderr
    done = _call(
        bin_ / "pg_dumpall", "--roles-only", "--no-role-passwords", "--file", "roles.sql",
        "--database", saved.url, folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    psql = bin_ / "psql"
    if psql.exists():
        _call(psql, "--file", "roles.sql", saved.other.url("postgres"), folder=folder)
    else:
        with closing(open_connection(saved.other.url("postgres"))) as admin:
            for role in ("submitter", "worker", "operator", "reader"):
                run(admin, f"create role peers_{role}")
    done = _call(
        bin_ / "pg_restore", "--exit-on-error", "--single-transaction", "--dbname", url,
        "shop.dump", folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return url


def test_a_restored_database_goes_on(saved: Saved, tmp_path: Path) -> None:
    """On another server; what ran at the time of the dump runs again when its lease has expired."""
    with closing(open_connection(_restore_all(saved, tmp_path))) as db:
        tasks = saved.tasks
        assert problems(db) == []
        assert states(db, *tasks.values()) == [*list(tasks)[:-1], "ready"]
        assert value(db, "select n from app") == 7
        assert row(db, "select result from peers.task where id = %s", tasks["completed"]) == {
            "result": 5
        }
        peer = Peer.join(db, "a", "b")
        peer.advance_steadily(60)
        assert [each["task_id"] for each in peer.reclaim()] == [tasks["running"]]
        failure = row(db, "select error_type, attempt from peers.failure where task_id = %s",
                      tasks["running"])  # fmt: skip
        assert failure == {"error_type": "lost", "attempt": 1}
        claims = claim_limited(peer).claims
        expected = {tasks["running"], tasks["ready"], tasks["limited"]}
        assert {each.task_id for each in claims} == expected
        peer.complete(*claims)
        assert [each.task_id for each in peer.claim()] == [tasks["blocked"]]
        assert submit(db) > max(tasks.values())
        advance(db, "1 day")
        assert [
            each["name"] for each in value(db, "select peers.due_schedules()")["schedules"]
        ] == ["s"]
        assert problems(db) == []


def test_only_the_data_is_restored_without_triggers(saved: Saved, tmp_path: Path) -> None:
    """With them it fails, and a single transaction leaves nothing behind."""
    done = _call(
        saved.programs / "pg_dump", "--format", "custom", "--data-only", "--exclude-table",
        "peers.migration", "--exclude-table", "peers.prune_cursor", "--file", "data.dump",
        saved.url, folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    url = _new_database(saved, "shop2")
    with Database(url) as database:
        database.migrate()
    restore = (
        saved.programs / "pg_restore", "--data-only", "--exit-on-error", "--single-transaction",
        "--dbname", url,
    )  # fmt: skip
    with closing(open_connection(url)) as db:
        run(db, "create table app (n int)")
        done = _call(*restore, "data.dump", folder=tmp_path)
        assert done.returncode != 0
        assert "kept by the scheduler" in done.stderr
        assert column(db, "select id from peers.task") == []

        done = _call(*restore, "--disable-triggers", "data.dump", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert problems(db) == []
        assert states(db, *saved.tasks.values()) == [*list(saved.tasks)[:-1], "ready"]
        assert [each.task_id for each in Peer.join(db, "a").claim()] == [saved.tasks["ready"]]


def test_a_copy_can_be_paused(saved: Saved, tmp_path: Path) -> None:
    """With the statements of the page, no peer claims or fires anything."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "backup.md").read_text()
    statements = page.split("## A copy for tests")[1].split("```sql\n")[1].split("```")[0]
    url = _restore_all(saved, tmp_path)
    with closing(open_connection(url)) as db:
        db.execute(statements.encode())
        peer = Peer.join(db, "a", "b")
        peer.advance_steadily(60)
        peer.reclaim()
        advance(db, "2 days")
        peer = Peer.join(db, "a", "b")
        assert claim_limited(peer).claims == []
    with psycopg.connect(url, autocommit=True) as connection:
        InlinePeer(connection).do_what_is_due()
        runs = connection.execute("select outcome::text, reason from peers.schedule_run").fetchall()
    assert set(runs) == {("skipped", "paused")}
