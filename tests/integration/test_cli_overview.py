"""What `peers status` and `peers top` read: on large queues, with few rights, and in time."""

from __future__ import annotations

import re
import statistics
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from peers.cli import overview, queue_queries, status
from peers.database.connection import connect as connect_peers
from tests.support.cli import Here, bury, join, peers, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.database.deadlines import BoundedConnection
    from tests.support.server import Connection

COUNTS = ("queue", *overview.COUNTS, "paused")


@pytest.fixture
def connection(database_url: str) -> Iterator[BoundedConnection]:
    """A connection as commands have it."""
    with connect_peers(database_url, application_name="test", pooled=True) as opened:
        yield opened


def mixed(db: Connection) -> None:
    """Submit tasks of every state in several queues, some of them under a limit."""
    peer = join(db, "a", "limited")
    bury(db, peer)
    dead = submit(db, "a")
    bury(db, peer)
    submit(db, "load", after=(dead,))
    db.execute("insert into peers.limit (name, kind, max_running) values ('l', 'limited', 1)")
    for kind in ("a", "limited"):
        db.execute(
            "insert into peers.task (kind, queue, priority)"
            " select %s, q, p"
            " from unnest('{default,media,mail}'::text[]) q, generate_series(1, 4) p",
            (kind,),
        )
    db.execute("select peers.place_limited(100)")
    db.execute("select * from peers.claim(%s, 'default', 2)", (peer,))
    db.execute(
        "insert into peers.task (kind, queue, scheduled_at)"
        " select 'a', 'media', now() + interval '1 h' from generate_series(1, 7)"
    )
    db.execute("select peers.pause('idle')")


def test_counting_rows_finds_what_the_view_finds(
    connection: BoundedConnection, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large queues are counted in another way, with the same result while no row is stale."""
    mixed(db)
    exact = queue_queries.queues(connection)
    monkeypatch.setattr(queue_queries, "EXACT_MAX", 5)
    counted = queue_queries.queues(connection)
    assert [row["is_estimate"] for row in (*exact, *counted)] == [False] * 4 + [True] * 4
    assert [[row[name] for name in COUNTS] for row in counted] == [
        [row[name] for name in COUNTS] for row in exact
    ]


def test_a_sample_of_scheduled_tasks_is_scaled_up(
    connection: BoundedConnection, db: Connection
) -> None:
    """The estimate is right on average, although the table has many times the rows that are read.

    The database chooses pages at random: a single estimate of this table is off by 12 % (one
    standard deviation), and the mean of 20 by 3 %.
    """
    join(db, "a", queue="idle")
    db.execute(
        "insert into peers.task (kind, queue, scheduled_at)"
        " select 'a', (array['x','x','x','y'])[1 + i % 4], now() + interval '1 h'"
        " from generate_series(1, 60000) i"
    )
    db.execute("analyze peers.scheduled")
    readings = [{row["queue"]: row for row in queue_queries.queues(connection)} for _ in range(20)]
    for queue, tasks in (("x", 45_000), ("y", 15_000)):
        estimates = [reading[queue]["scheduled"] for reading in readings]
        assert statistics.mean(estimates) == pytest.approx(tasks, rel=0.2)
        assert all(reading[queue]["is_estimate"] for reading in readings)


def test_the_oldest_ready_task_of_each_queue(connection: BoundedConnection, db: Connection) -> None:
    """Among all kinds and priorities, under a limit or not, as the view says."""
    mixed(db)
    oldest = {row["queue"]: row for row in queue_queries.oldest_ready(connection)}
    assert oldest.keys() == {"default", "mail", "media"}
    truth = db.execute(
        "select distinct on (queue) queue, id from peers.task where state = 'ready'"
        " order by queue, greatest(created_at, scheduled_at), id"
    ).fetchall()
    for row in truth:
        [since] = db.execute(
            "select greatest(created_at, scheduled_at) as since from peers.task where id = %s",
            (row["id"],),
        )
        assert oldest[row["queue"]]["since"] == since["since"]
    for row in queue_queries.oldest_ready(connection):
        db.execute("select peers.cancel(%s)", (row["task_id"],))  # its row in ready stays
    cancelled = {row["task_id"] for row in oldest.values()}
    later = queue_queries.oldest_ready(connection)
    assert {row["queue"] for row in later} == oldest.keys()
    assert not cancelled & {row["task_id"] for row in later}


@pytest.mark.parametrize("words", [["status"], ["top"], ["tasks"], ["dead", "list", "--by-cause"]])
def test_a_reader_may_look(database_url: str, db: Connection, words: list[str]) -> None:
    """The role that dashboards have is enough, and everything can be read."""
    mixed(db)
    url = make_conninfo(database_url, options="-c role=peers_reader")
    found = peers(*words, "--json", url=url)
    assert found.code in (0, 1), found.err
    assert found.document.get("unread", {}) == {}


def test_a_submitter_is_told_once_that_it_may_not_look(database_url: str) -> None:
    """And which role may; each part would say the same."""
    found = peers("status", url=make_conninfo(database_url, options="-c role=peers_submitter"))
    assert (found.code, found.out) == (78, "")
    assert "may not read the tables of Peers\nhint: " in found.err
    assert "peers_reader or peers_operator" in found.err


def test_an_operator_may_act_in_bulk(database_url: str, db: Connection) -> None:
    """Retry, discard and cancel by a filter."""
    mixed(db)
    url = make_conninfo(database_url, options="-c role=peers_operator")
    for words in (["dead", "retry"], ["cancel"], ["dead", "discard"]):
        assert peers(*words, "--kind", "a", url=url).code == 0


def test_status_goes_on_without_a_part_that_takes_too_long(
    database_url: str,
    db: Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It names the part and the reason, and that is a problem."""
    mixed(db)
    here = Here(database_url, monkeypatch, capsys)
    # long enough for the other parts on a busy machine; the locked one never ends
    monkeypatch.setattr(status, "_TIMEOUT", 5.0)
    monkeypatch.setattr(overview, "_LOCK_TIMEOUT", 60.0)
    with db.transaction():
        db.execute("lock table peers.alert in access exclusive mode")
        found = here("status")
    assert found.code == 1
    assert "! alerts could not be read: the database took longer than 5s" in found.out
    assert "media" in found.out
    assert "alive" in found.out


LOCKED = ("alert", "clock", "dead", "failure", "graph", "lease", "limit", "paused_queue", "peer",
          "ready", "schedule", "scheduled", "task")  # fmt: skip


@pytest.mark.parametrize("table", LOCKED)
def test_a_locked_table_makes_no_false_problem(
    database_url: str,
    db: Connection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    table: str,
) -> None:
    """What cannot be read is unknown: "no live peer" would be a lie, and so would be 0 tasks."""
    mixed(db)
    db.execute("insert into peers.schedule (name, every, kind) values ('s', '1 hour', 'a')")
    here = Here(database_url, monkeypatch, capsys)

    def problems(command: str) -> set[str]:
        found = here(command, "--json")
        assert "Traceback" not in found.err
        return {re.sub(r"[0-9]+", "N", problem) for problem in found.document["problems"]}

    true = {command: problems(command) for command in ("status", "top")}
    monkeypatch.setattr(overview, "_LOCK_TIMEOUT", 0.05)
    with db.transaction():
        db.execute(f"lock table peers.{table} in access exclusive mode")
        for command, known in true.items():
            shown = re.compile(r"could not be read|; N tasks? ready").search
            false = {each for each in problems(command) - known if not shown(each)}
            assert not false
        found = here("status", "--json").document
        assert found["unread"]
        assert "lock_wait" in str(found["unread"])
        if "queues" in found["unread"]:
            assert found["dead"] is None
            assert {queue["ready"] for queue in found["queues"]} <= {None}
        if "peers" in found["unread"]:
            assert "0 peers" not in here("top").out


def test_missing_rights_are_told_once(database_url: str) -> None:
    """With the role that has them."""
    url = make_conninfo(database_url, options="-c role=peers_submitter")
    found = peers("status", url=url)
    assert (found.code, found.out, found.err.count("peers_reader")) == (78, "", 1)
    assert "peers unknown" in peers("top", url=url).out
