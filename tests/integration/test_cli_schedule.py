"""`peers schedule`: what each command prints and does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from peers.cli.output import WIDTH
from peers.types import KindPolicy
from tests.support.cli import Answer, Here
from tests.support.schedules import fire, refuse_kind, set_clock
from tests.support.world import Peer

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


def add(here: Here, name: str = "nightly", *options: str) -> str:
    """Add a schedule with the command."""
    when = () if "--every" in options else ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin")
    return done(here("schedule", "add", name, "etl.extract", *when, *options))


def test_a_schedule_is_added_with_its_next_times(here: Here, db: Connection) -> None:
    """In its own time zone; every option arrives."""
    printed = add(
        here, "nightly", "day=monday", "--args", '{"n": 1.50}', "--queue", "q", "--priority", "3",
        "--max-attempts", "2", "--timeout", "5m", "--misfire", "skip", "--catch-up", "2h",
        "--overlap", "buffer_one", "--jitter", "30s", "--expect-within", "1h",
    )  # fmt: skip
    first, *times = printed.splitlines()
    assert first == 'schedule "nightly" is added; it is due next at'
    assert len(times) == 5
    assert all(time.rsplit(maxsplit=1)[0].endswith("02:30:00") for time in times)
    assert {time.split()[-1] for time in times} <= {"CET", "CEST"}
    row = db.execute("select * from peers.schedule").fetchone()
    assert row is not None
    assert db.execute("select args::text from peers.schedule").fetchall() == [
        {"args": '{"n": 1.50, "day": "monday"}'}
    ]
    assert (row["queue"], row["priority"], row["max_attempts"]) == ("q", 3, 2)
    assert (row["misfire"], row["overlap"]) == ("skip", "buffer_one")
    seconds = [
        row[name].total_seconds() for name in ("timeout", "catch_up", "jitter", "expect_within")
    ]
    assert seconds == [300, 7200, 30, 3600]


def test_a_submitter_adds_a_schedule_that_it_may_not_read(
    here: Here, db: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told that it is added, without the times."""
    url = make_conninfo(database_url, options="-c role=peers_submitter")
    monkeypatch.setenv("PEERS_DATABASE_URL", url)
    assert add(here) == 'schedule "nightly" is added\n'
    assert db.execute("select name from peers.schedule").fetchall() == [{"name": "nightly"}]


@pytest.mark.parametrize(
    ("verb", "table"),
    [(("submit", "etl.extract"), "task"), (("schedule", "add", "s", "etl.extract"), "schedule")],
)
def test_a_kind_brings_its_queue_and_priority(
    here: Here, db: Connection, verb: tuple[str, ...], table: str
) -> None:
    """Those that its handler declares, as in Python, once a peer has had it. Options win."""
    when = ("--every", "1h", "--replace") if table == "schedule" else ()

    def went_to(*options: str, is_known: bool = True) -> tuple[str, int]:
        answer = here(*verb, *when, *options)
        done(answer)
        assert ('no peer has had a handler for kind "etl.extract"' in answer.err) != is_known
        row = db.execute(
            f"select * from peers.{table} order by created_at desc".encode()
        ).fetchone()
        assert row is not None
        return row["queue"], row["priority"]

    assert went_to(is_known=False) == ("default", 100)
    policy = KindPolicy("etl.extract", queue="etl", priority=7).as_json()
    Peer.join(db, queues=("etl",), policies=[{**policy}])
    assert went_to() == ("etl", 7)
    assert went_to("--priority", "9") == ("etl", 9)
    assert went_to("--queue", "default") == ("default", 7)


def test_a_malformed_schedule_is_refused_with_an_example(here: Here) -> None:
    """The reason names the bound; nothing is added."""
    for words, said in (
        (("--cron", "0 2 * *"), "five fields"),
        (("--cron", "0 25 * * *"), "hour"),
        (("--cron", "@daily", "--timezone", "Mars"), "timezone"),
        (("--every", "0s"), "every must be 1 second"),
        (("--cron", "@daily", "--jitter", "48h"), "jitter must be 0 to 1 day"),
    ):
        answer = here("schedule", "add", "x", "a", *words)
        assert (answer.code, said in answer.err) == (2, True), answer
    with pytest.raises(SystemExit, match="2"):
        here("schedule", "add", "x", "a")
    assert here("schedule", "list").err.startswith("no schedules")


def test_a_schedule_is_not_added_twice(here: Here, db: Connection) -> None:
    """Unless --replace says so; a repeated call changes nothing, and a pause stays."""
    add(here, "s", "--every", "15m")
    answer = here("schedule", "add", "s", "a", "--every", "5m")
    assert (answer.code, "already a schedule" in answer.err) == (2, True)
    assert "hint: To change it, pass --replace." in answer.err
    before = db.execute("select revision, anchor from peers.schedule").fetchall()
    done(here("schedule", "pause", "s"))
    assert "is set" in add(here, "s", "--every", "15m", "--replace")
    assert db.execute("select revision, anchor from peers.schedule").fetchall() == before
    add(here, "s", "--every", "5m", "--replace")
    row = db.execute("select every, paused_at from peers.schedule").fetchone()
    assert row is not None
    assert (row["every"].total_seconds(), row["paused_at"] is None) == (300, False)


def test_schedules_are_listed(here: Here, db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """With when they are due, what became of them, and whether the code still declares them."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    peer = Peer.join(db)
    declared = [{"name": name, "kind": "a", "cron": "@daily"} for name in ("kept", "changed")]
    db.execute("select peers.declare_schedules(%s, %s)", (peer.id, json.dumps(declared)))
    add(here, "mine")
    db.execute("update peers.schedule set cron = '0 3 * * *' where name = 'changed'")
    done(here("schedule", "pause", "kept"))
    fire(db)
    lines = done(here("schedule", "list")).splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", "changed", "kept", "mine"]
    assert all(len(line) <= WIDTH for line in lines)
    found = here("schedule", "list", "--json").document["schedules"]
    assert [each["origin"] for each in found] == ["changed by operator", "yes", "no"]
    assert [each["paused_at"] is None for each in found] == [True, False, True]
    assert found[0]["cron"] == "0 3 * * *"
    other = Peer.join(db)
    peer.leave()
    found = here("schedule", "list", "--json").document["schedules"]
    assert [each["origin"] for each in found] == ["no longer", "no longer", "no"]
    other.leave()
    assert "No peer is running" in here("schedule", "list").err


def test_next_shows_the_times_in_the_zone(here: Here) -> None:
    """As many as asked for; --json has them with their offsets."""
    add(here)
    assert len(done(here("schedule", "next", "nightly")).splitlines()) == 5
    times = here("schedule", "next", "nightly", "--count", "2", "--json").document["next"]
    assert len(times) == 2
    assert all("T02:30:00+0" in time for time in times)


def test_a_schedule_is_run_paused_and_removed(here: Here, db: Connection) -> None:
    """Each command says what it did."""
    add(here)
    assert "paused" in done(here("schedule", "pause", "nightly"))
    task_id = int(done(here("schedule", "run", "nightly")))
    assert db.execute("select kind from peers.task where id = %s", (task_id,)).fetchone() == {
        "kind": "etl.extract"
    }
    assert "resumed" in done(here("schedule", "resume", "nightly"))
    assert "deleted" in done(here("schedule", "remove", "nightly"))
    for verb in ("pause", "resume", "remove", "run", "next", "explain"):
        assert here("schedule", verb, "nosuch").code == 4, verb


def test_backfill_and_explain(here: Here, db: Connection) -> None:
    """A backfill is asked for; explain says how far it is, and what became of a time."""
    set_clock(db, "2026-11-20 12:00:00+00")
    add(here, "hourly", "--every", "1h", "--anchor", "2026-11-01T00:00Z")
    fire(db)
    printed = done(
        here("schedule", "backfill", "hourly", "--from", "2026-11-10T00:00Z", "--until",
             "2026-11-10T05:00Z")
    )  # fmt: skip
    assert printed.startswith("backfill ")
    assert "in progress" in done(here("schedule", "explain", "hourly"))
    fire(db)
    said = done(here("schedule", "explain", "hourly", "--at", "2026-11-10T03:30Z"))
    assert "due at 2026-11-10 03:00:00 UTC is task" in said
    assert "of a backfill" in said
    document = here("schedule", "explain", "hourly", "--json").document
    assert "due next at" in document["explanation"]


def test_a_backfill_is_cancelled(here: Here, db: Connection) -> None:
    """By the number that was printed; a second time there is none."""
    set_clock(db, "2026-11-20 12:00:00+00")
    add(here, "hourly", "--every", "1h")
    answer = here("schedule", "backfill", "hourly", "--from", "2026-11-10T00:00Z")
    number = answer.out.split()[1]
    assert f"peers schedule cancel-backfill {number}`" in answer.err
    assert "is cancelled" in done(here("schedule", "cancel-backfill", number))
    assert not db.execute("select from peers.schedule_backfill").fetchall()
    again = here("schedule", "cancel-backfill", number)
    assert (again.code, f"there is no backfill {number}" in again.err) == (4, True)
    assert "SELECT peers.cancel(" in again.err


@pytest.mark.parametrize(
    ("from_at", "until_at", "words"),
    [
        ("2026-11-10T02:00Z", "2026-11-10T01:00Z", "--until must be --from (2026-11-10 02:00:00"),
        ("2026-11-10T02:00Z", "2099-01-01T00:00Z", "--until must be now or earlier, not 2099"),
        ("2099-01-01T00:00Z", None, "--from must be now or earlier, not 2099"),
        ("1960-01-01T00:00Z", None, "--from must be 1970 or later, not 1960"),
        ("2026-10-01T00:00Z", "2026-10-02T00:00Z", "--until is 2026-10-02 00:00:00 UTC, but"),
    ],
)
def test_a_malformed_backfill_is_refused(
    here: Here, db: Connection, from_at: str, until_at: str | None, words: str
) -> None:
    """The error names the options of the command, and no function of SQL."""
    set_clock(db, "2026-11-20 12:00:00+00")
    add(here, "hourly", "--every", "1h", "--anchor", "2026-11-01T00:00Z")
    until = () if until_at is None else ("--until", until_at)
    answer = here("schedule", "backfill", "hourly", "--from", from_at, *until)
    assert (answer.code, words in answer.err) == (2, True), answer
    assert not any(word in answer.err for word in ("from_at", "until_at", "peers.backfill"))


def test_a_backfill_from_before_the_anchor_says_where_it_begins(here: Here, db: Connection) -> None:
    """The due times before the anchor do not exist."""
    set_clock(db, "2026-11-20 12:00:00+00")
    add(here, "hourly", "--every", "1h", "--anchor", "2026-11-10T00:00Z")
    early = here("schedule", "backfill", "hourly", "--from", "2026-11-09T00:00Z")
    assert "It begins at the anchor of the schedule, 2026-11-10 00:00:00 UTC" in early.err
    later = here("schedule", "backfill", "hourly", "--from", "2026-11-10T00:00Z")
    assert (later.code, "anchor" in later.err) == (0, False)


def test_explain_suggests_to_cancel_the_run_that_the_others_wait_for(
    here: Here, db: Connection
) -> None:
    """With overlap skip, an earlier run that nobody runs keeps the later ones from starting."""
    set_clock(db, "2026-11-20 12:00:00+00")
    add(here, "hourly", "--every", "1h", "--overlap", "skip", "--queue", "nowhere")
    for hour in (13, 14):
        set_clock(db, f"2026-11-20 {hour}:01:00+00")
        fire(db)
    task = db.execute("select id from peers.task").fetchone()
    assert task is not None
    answer = here("schedule", "explain", "hourly")
    assert f"`peers cancel {task['id']}` cancels that run" in answer.err


def test_status_tells_of_schedules_that_do_not_run(here: Here, db: Connection) -> None:
    """Alerts, failures, and schedules without a peer are problems."""
    assert here("status").code == 0
    set_clock(db, "2026-11-20 12:00:01+00")
    add(here, "hourly sums", "--every", "1h", "--expect-within", "10m")
    answer = here("status")
    assert (answer.code, "no live peer, so that 1 schedule cannot fire" in answer.out) == (1, True)
    peer = Peer.join(db, "etl.extract")
    assert here("status").code == 0
    fire(db)
    set_clock(db, "2026-11-20 14:00:00+00")
    fire(db)
    db.execute("select peers.due_schedules()")
    peer.heartbeat()
    answer = here("status", "--json")
    assert answer.code == 1
    assert [alert["subject"] for alert in answer.document["alerts"]] == ["hourly sums"]
    assert any(
        "schedule explain 'hourly sums'" in problem for problem in answer.document["problems"]
    )
    refuse_kind(db, "etl.extract")
    set_clock(db, "2026-11-20 15:10:00+00")
    fire(db)
    assert "1 schedule could not be fired" in here("status").out
    answer = here("schedule", "list")
    assert (answer.code, "failing" in answer.out) == (0, True)
    assert "schedule explain 'hourly sums'`" in answer.err
