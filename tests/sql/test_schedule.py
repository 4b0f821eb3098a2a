"""Schedules: what an INSERT refuses, when they fire, and what happens to due times."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from tests.support.cli import PROJECT
from tests.support.schedules import (
    add_schedule,
    due,
    fire,
    planned,
    refuse_kind,
    runs,
    schedule,
    send,
    set_clock,
    tasks,
)
from tests.support.world import Peer, advance, column, refusal, row, rows, run, state, value

if TYPE_CHECKING:
    from tests.support.server import Connection


@pytest.fixture
def at_noon(db: Connection) -> Connection:
    """A database whose clock shows noon, and a schedule `s` that is due each hour."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db)
    assert fire(db) == []
    return db


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"name": ""}, "name must have 1 to 200 characters"),
        ({"name": None}, "name must have 1 to 200 characters"),
        ({"name": "a\nb"}, "control characters"),
        ({"every": "5 minutes", "cron": "0 2 * * *"}, "either cron"),
        ({"cron": None}, "either cron"),
        ({"cron": "0 2 * *"}, "five fields"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"every": "0.5 s"}, "every must be 1 second to 365 days, such as 15 minutes"),
        ({"every": "1 month"}, 'set cron to "0 0 1 * *"'),
        ({"every": "-1 hour"}, "every must be 1 second"),
        ({"anchor": "2026-01-01"}, "anchor belongs to every"),
        ({"kind": ""}, "kind must have 1 to 200 characters"),
        ({"args": "[]"}, "args must be a JSON object"),
        ({"args": '{"a": "' + 2**20 * "x" + '"}'}, "args must be at most 1 MiB"),
        ({"metadata": "[]"}, "metadata must be a JSON object"),
        ({"max_attempts": 0}, "max_attempts must be 1 to 1000"),
        ({"timeout": "31 days"}, "timeout must be 1 millisecond to 30 days"),
        ({"catch_up": "-1 s"}, "catch_up must be 0 to 365 days"),
        ({"jitter": "2 days"}, "jitter must be 0 to 1 day"),
        ({"expect_within": "0"}, "expect_within must be 1 second to 365 days"),
        ({"next_due_at": "2026-01-01"}, "kept by the scheduler"),
        ({"paused_at": "infinity"}, "paused_at must be between the years 1900 and 9000"),
    ],
)
def test_a_malformed_schedule_is_refused(
    db: Connection, columns: dict[str, Any], words: str
) -> None:
    """The INSERT says what is wrong, with the bound."""
    given = {"name": "s", "kind": "a", **columns}
    if "cron" not in given and "every" not in given:
        given["cron"] = "0 * * * *"
    marks = ", ".join(["%s"] * len(given))
    statement = f"insert into peers.schedule ({', '.join(given)}) values ({marks})"
    code, said = refusal(db, statement, *given.values())
    assert (code, words in said) == ("PE013", True), said


def test_a_schedule_cannot_be_changed_to_a_malformed_one(db: Connection) -> None:
    """An UPDATE is checked like an INSERT; a name stays."""
    add_schedule(db)
    for change in ("cron = 'x'", "timezone = 'x'", "name = 'other'", "catch_up = '2 years'"):
        assert refusal(db, f"update peers.schedule set {change}")[0] == "PE013", change
    for column_kept in ("next_due_at", "computed_from", "retry_at", "expect_at", "created_at"):
        said = refusal(db, f"update peers.schedule set {column_kept} = now()")
        assert said[0] == "PE005", column_kept


# ------------------------------------------------------------------------------------- firing


def test_a_schedule_fires_at_each_due_time(at_noon: Connection) -> None:
    """One task and one row for each due time, which the task's metadata names."""
    db = at_noon
    assert schedule(db)["next_due_at"] == datetime(2026, 11, 23, 13, tzinfo=UTC)
    for hour in (13, 14):
        set_clock(db, f"2026-11-23 {hour}:00:00.01+00")
        [fired] = fire(db)
        assert (fired["schedule"], fired["outcome"]) == ("s", "fired")
        assert fired["due_at"] == datetime(2026, 11, 23, hour, tzinfo=UTC)
        assert value(db, "select peers.task_due_at(%s)", fired["task_id"]) == fired["due_at"]
        assert fire(db) == []
    found = row(db, "select kind, args, metadata from peers.task order by id desc limit 1")
    assert (found["kind"], found["args"]) == ("a", {})
    assert found["metadata"] == {"schedule": "s", "due_at": "2026-11-23T14:00:00.000000Z"}
    assert runs(db) == [("fired", None)] * 2


def test_a_task_has_what_its_schedule_says(db: Connection) -> None:
    """Args, queue, priority and the rest."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(
        db, args='{"n": 1}', queue="q", priority=7, max_attempts=2, timeout="3 s",
        metadata='{"team": "x"}',
    )  # fmt: skip
    fire(db)
    advance(db, "1 hour")
    fire(db)
    task = row(db, "select * from peers.task")
    assert (task["args"], task["queue"], task["priority"]) == ({"n": 1}, "q", 7)
    assert (task["max_attempts"], task["timeout"].total_seconds()) == (2, 3)
    assert task["metadata"]["team"] == "x"


def test_every_counts_from_its_anchor(db: Connection) -> None:
    """Without an anchor, it counts from the INSERT."""
    set_clock(db, "2026-11-23 12:34:00+00")
    add_schedule(db, "a", every="15 minutes")
    add_schedule(db, "b", every="1 hour", anchor="2026-11-23 00:10:00+00")
    add_schedule(db, "c", every="1 hour", anchor="2027-01-01 00:00:00+00")
    fire(db)
    due_times = {name: schedule(db, name)["next_due_at"].astimezone(UTC) for name in "abc"}
    assert due_times["a"].strftime("%H:%M") == "12:49"
    assert due_times["b"].strftime("%H:%M") == "13:10"
    assert due_times["c"] == datetime(2027, 1, 1, tzinfo=UTC)


def test_a_time_that_was_due_before_it_was_computed_fires(db: Connection) -> None:
    """A schedule that is inserted just before its due time does not miss it."""
    set_clock(db, "2026-11-23 12:59:59+00")
    add_schedule(db)
    set_clock(db, "2026-11-23 13:00:01+00")
    assert [each["outcome"] for each in fire(db)] == ["fired"]


def test_the_second_peer_finds_nothing(at_noon: Connection) -> None:
    """What two peers have computed fires once."""
    set_clock(at_noon, "2026-11-23 13:00:00+00")
    first, second = planned(due(at_noon)), planned(due(at_noon))
    assert len(send(at_noon, first)) == 1
    assert send(at_noon, second) == []
    assert len(tasks(at_noon)) == 1


def test_a_clock_that_is_set_back_fires_nothing_twice(at_noon: Connection) -> None:
    """The row of a due time keeps it from firing again, even if the schedule is replaced."""
    set_clock(at_noon, "2026-11-23 13:00:00+00")
    fire(at_noon)
    run(at_noon, "delete from peers.schedule")
    set_clock(at_noon, "2026-11-23 12:30:00+00")
    add_schedule(at_noon)
    fire(at_noon)
    set_clock(at_noon, "2026-11-23 13:00:00+00")
    assert fire(at_noon) == []
    assert len(tasks(at_noon)) == 1


# ------------------------------------------------------------------------------------ misfires


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [
        ("skip", ["skipped"] * 4),
        ("latest", ["skipped"] * 3 + ["fired"]),
        ("all", ["fired"] * 4),
    ],
)
def test_missed_times(db: Connection, misfire: str, expected: list[str]) -> None:
    """The policy decides what runs after a time without peers; each due time has its row."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db, misfire=misfire)
    fire(db)
    set_clock(db, "2026-11-23 16:30:00+00")
    fire(db)
    assert [outcome for outcome, _ in runs(db)] == expected
    assert {reason for _, reason in runs(db)} <= {None, "misfire"}
    assert schedule(db)["next_due_at"] == datetime(2026, 11, 23, 17, tzinfo=UTC)


@pytest.mark.parametrize(("misfire", "fired"), [("skip", 0), ("latest", 0), ("all", 2)])
def test_nothing_older_than_catch_up_runs(db: Connection, misfire: str, fired: int) -> None:
    """However many times were missed."""
    set_clock(db, "2026-11-23 12:00:01+00")
    catch_up = "150 minutes" if misfire == "all" else "10 minutes"
    add_schedule(db, misfire=misfire, catch_up=catch_up)
    fire(db)
    set_clock(db, "2026-11-23 16:30:00+00")
    fire(db)
    outcomes = [outcome for outcome, _ in runs(db)]
    assert (len(outcomes), outcomes.count("fired")) == (4, fired)


def test_a_time_that_is_a_moment_late_is_not_missed(at_noon: Connection) -> None:
    """Ten seconds are allowed, whatever the policy."""
    run(at_noon, "update peers.schedule set misfire = 'skip', catch_up = '0'")
    set_clock(at_noon, "2026-11-23 13:00:09+00")
    assert [each["outcome"] for each in fire(at_noon)] == ["fired"]
    set_clock(at_noon, "2026-11-23 14:00:11+00")
    assert [each["reason"] for each in fire(at_noon)] == ["misfire"]


def test_millions_of_missed_times_have_one_row(db: Connection) -> None:
    """After a year without peers, what is older than catch_up takes no time."""
    set_clock(db, "2025-11-23 12:00:00+00")
    add_schedule(db, every="1 second", catch_up="5 seconds")
    fire(db)
    set_clock(db, "2026-11-23 12:00:00+00")
    fire(db)
    found = rows(db, "select * from peers.schedule_run order by due_at")
    assert 2 <= len(found) < 20
    assert found[0]["reason"] == "misfire"
    assert (
        found[0]["skipped_until"] - found[0]["due_at"]
        > found[1]["due_at"] - found[0]["skipped_until"]
    )
    assert len(tasks(db)) >= 5


# ------------------------------------------------------------------------------------- overlap


def test_overlap_allow(at_noon: Connection) -> None:
    """Runs do not wait for one another."""
    for hour in (13, 14):
        set_clock(at_noon, f"2026-11-23 {hour}:00:00+00")
        fire(at_noon)
    assert column(at_noon, "select state::text from peers.task") == ["ready"] * 2


def test_overlap_skip(at_noon: Connection) -> None:
    """A due time is skipped while the run before is unfinished, also when it waits for a retry."""
    run(at_noon, "update peers.schedule set overlap = 'skip'")
    peer = Peer.join(at_noon, lease="1 day")
    set_clock(at_noon, "2026-11-23 13:00:00+00")
    fire(at_noon)
    peer.heartbeat()
    [claim] = peer.claim()
    set_clock(at_noon, "2026-11-23 14:00:00+00")
    assert [each["reason"] for each in fire(at_noon)] == ["overlap"]
    peer.fail(claim, retry_in=86400)
    set_clock(at_noon, "2026-11-23 15:00:00+00")
    assert [each["reason"] for each in fire(at_noon)] == ["overlap"]
    run(at_noon, "select peers.cancel(id) from peers.task")
    set_clock(at_noon, "2026-11-23 16:00:00+00")
    assert [each["outcome"] for each in fire(at_noon)] == ["fired"]


def test_a_change_of_the_overlap_counts_the_runs_of_before(at_noon: Connection) -> None:
    """Those that are unfinished; the others are noted as ended at once."""
    for hour in (13, 14):
        set_clock(at_noon, f"2026-11-23 {hour}:00:00+00")
        fire(at_noon)
    run(at_noon, "select peers.cancel(%s)", tasks(at_noon)[0])
    count = "select count(*) from peers.schedule_run where unfinished"
    assert value(at_noon, count) == 2
    run(at_noon, "update peers.schedule set overlap = 'skip'")
    assert value(at_noon, count) == 1
    set_clock(at_noon, "2026-11-23 15:00:00+00")
    assert [each["reason"] for each in fire(at_noon)] == ["overlap"]


def test_a_dead_letter_does_not_stop_its_schedule(at_noon: Connection) -> None:
    """A run whose task is dead has ended."""
    run(at_noon, "update peers.schedule set overlap = 'skip', max_attempts = 1")
    peer = Peer.join(at_noon, lease="1 day")
    set_clock(at_noon, "2026-11-23 13:00:00+00")
    fire(at_noon)
    peer.heartbeat()
    peer.fail(*peer.claim())
    set_clock(at_noon, "2026-11-23 14:00:00+00")
    assert [each["outcome"] for each in fire(at_noon)] == ["fired"]


def test_overlap_buffer_one(at_noon: Connection) -> None:
    """One run waits for those before it; while it waits, further ones are skipped."""
    run(at_noon, "update peers.schedule set overlap = 'buffer_one'")
    peer = Peer.join(at_noon, lease="1 day")
    for hour in (13, 14, 15):
        set_clock(at_noon, f"2026-11-23 {hour}:00:00+00")
        fire(at_noon)
    assert [outcome for outcome, _ in runs(at_noon)] == ["fired", "fired", "skipped"]
    first, second = tasks(at_noon)
    assert state(at_noon, second) == "blocked"
    peer.heartbeat()
    [claim] = peer.claim()
    assert claim.task_id == first
    peer.fail(claim, reject=True)  # also when the run before it dies
    assert state(at_noon, second) == "ready"
    set_clock(at_noon, "2026-11-23 16:00:00+00")
    fire(at_noon)
    assert state(at_noon, tasks(at_noon)[-1]) == "blocked"


def test_overlap_cancel_other(at_noon: Connection) -> None:
    """A waiting run is cancelled, a running one is told to stop; the new one starts after it."""
    run(at_noon, "update peers.schedule set overlap = 'cancel_other'")
    peer = Peer.join(at_noon, lease="1 day")
    for hour in (13, 14):
        set_clock(at_noon, f"2026-11-23 {hour}:00:00+00")
        fire(at_noon)
    first, second = tasks(at_noon)
    assert (state(at_noon, first), state(at_noon, second)) == ("cancelled", "ready")
    peer.heartbeat()
    [claim] = peer.claim()
    set_clock(at_noon, "2026-11-23 15:00:00+00")
    fire(at_noon)
    third = tasks(at_noon)[-1]
    assert state(at_noon, third) == "blocked"
    assert peer.heartbeat()["cancelled_tasks"] == [second]
    peer.fail(claim)
    assert state(at_noon, third) == "ready"


def test_jitter_delays_the_task_not_the_firing(at_noon: Connection) -> None:
    """By a part of the jitter that depends on the name and the time alone."""
    run(at_noon, "update peers.schedule set jitter = '10 minutes'")
    set_clock(at_noon, "2099-11-23 12:30:00+00")
    fire(at_noon)
    set_clock(at_noon, "2099-11-23 13:00:00+00")
    fire(at_noon)
    task = row(at_noon, "select state::text, scheduled_at from peers.task order by id desc limit 1")
    delay = task["scheduled_at"] - datetime(2099, 11, 23, 13, tzinfo=UTC)
    assert task["state"] == "scheduled"
    assert 0 < delay.total_seconds() < 600


# ------------------------------------------------------------------------------ pause and change


def test_a_paused_schedule_skips_its_due_times(at_noon: Connection) -> None:
    """They are recorded, and do not run after the resume either."""
    run(at_noon, "select peers.pause_schedule('s')")
    set_clock(at_noon, "2026-11-23 13:00:01+00")
    fire(at_noon)
    set_clock(at_noon, "2026-11-23 14:00:01+00")
    run(at_noon, "select peers.resume_schedule('s')")  # no peer has looked at 14:00
    fire(at_noon)
    assert runs(at_noon) == [("skipped", "paused")] * 2
    set_clock(at_noon, "2026-11-23 15:00:01+00")
    assert [each["outcome"] for each in fire(at_noon)] == ["fired"]


def test_a_pause_with_plain_sql_is_the_same(at_noon: Connection) -> None:
    """UPDATE … SET paused_at."""
    run(at_noon, "update peers.schedule set paused_at = now()")
    set_clock(at_noon, "2026-11-23 13:00:01+00")
    run(at_noon, "update peers.schedule set paused_at = null")
    fire(at_noon)
    assert runs(at_noon) == [("skipped", "paused")]


def test_a_change_of_the_times_is_computed_again(at_noon: Connection) -> None:
    """A due time of before that no peer has fired is recorded, not lost without a trace."""
    set_clock(at_noon, "2026-11-23 13:00:01+00")
    run(at_noon, "update peers.schedule set cron = '30 * * * *'")
    assert schedule(at_noon)["next_due_at"] is None
    fire(at_noon)
    assert runs(at_noon) == [("skipped", "changed")]
    assert schedule(at_noon)["next_due_at"] == datetime(2026, 11, 23, 13, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("columns", "until", "expected"),
    [
        ({"cron": "0 * * * *"}, "12:00:40", []),
        ({"cron": "0 * * * *"}, "12:01:00.5", [("skipped", "changed")]),
        ({"every": "30 s"}, "12:00:25", []),
        ({"every": "30 s"}, "12:00:45", [("skipped", "changed")]),
        ({"every": "30 s", "anchor": "2026-11-24 00:00Z"}, "12:30:00", []),
        ({"every": "30 s", "paused_at": "2026-11-23 12:00Z"}, "12:00:45", [("skipped", "paused")]),
    ],
)
def test_times_that_nobody_has_computed_leave_a_trace(
    db: Connection, columns: dict[str, Any], until: str, expected: list[tuple[str, str]]
) -> None:
    """A change before a peer has looked may give due times up; one row stands for all of them."""
    set_clock(db, "2026-11-23 12:00:10+00")
    add_schedule(db, **columns)
    set_clock(db, f"2026-11-23 {until}+00")
    run(db, "update peers.schedule set cron = '30 3 * * *', every = null, anchor = null")
    assert runs(db) == expected


def test_a_change_of_the_args_keeps_the_due_time(at_noon: Connection) -> None:
    """Only a change of the times has them computed again."""
    before = schedule(at_noon)
    run(at_noon, "update peers.schedule set args = '{\"n\": 2}', cron = cron")
    after = schedule(at_noon)
    assert (after["next_due_at"], after["revision"]) == (before["next_due_at"], before["revision"])
    set_clock(at_noon, "2026-11-23 13:00:01+00")
    fire(at_noon)
    assert value(at_noon, "select args from peers.task") == {"n": 2}


def test_the_ledger_outlives_its_schedule(at_noon: Connection) -> None:
    """A due time that was not fired before the DELETE is recorded."""
    set_clock(at_noon, "2026-11-23 13:00:01+00")
    fire(at_noon)
    set_clock(at_noon, "2026-11-23 14:00:01+00")
    run(at_noon, "delete from peers.schedule")
    assert runs(at_noon) == [("fired", None), ("skipped", "deleted")]
    assert "deleted" in value(at_noon, "select peers.explain_schedule('s')")


def test_run_now(at_noon: Connection) -> None:
    """It works while the schedule is paused, and is recorded."""
    run(at_noon, "select peers.pause_schedule('s')")
    task_id = value(at_noon, "select peers.run_schedule('s')")
    assert state(at_noon, task_id) == "ready"
    assert row(at_noon, "select cause, task_id from peers.schedule_run") == {
        "cause": "manual", "task_id": task_id,
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["pause", "resume", "remove", "run", "explain"])
def test_an_unknown_schedule_is_refused(db: Connection, verb: str) -> None:
    """With a code of its own."""
    assert refusal(db, f"select peers.{verb}_schedule('nosuch')")[0] == "PE012"


# ------------------------------------------------------------------------------------ backfill


def test_a_backfill_runs_what_has_not_run(at_noon: Connection) -> None:
    """Both ends are included; what has fired does not run again; skipped times do."""
    set_clock(at_noon, "2026-11-23 13:00:01+00")
    fire(at_noon)
    set_clock(at_noon, "2026-11-23 20:30:00+00")
    fire(at_noon)
    run(at_noon, "select peers.backfill_schedule('s', '2026-11-23 10:00Z', '2026-11-23 20:00Z')")
    fire(at_noon)
    found = rows(at_noon, "select due_at, outcome::text, cause from peers.schedule_run order by 1")
    assert [each["due_at"].astimezone(UTC).hour for each in found] == list(range(10, 21))
    assert {each["outcome"] for each in found} == {"fired"}
    assert [each["cause"] for each in found].count("backfill") == 9
    assert len(tasks(at_noon)) == 11
    assert column(at_noon, "select state::text from peers.task") == ["ready"] * 11
    assert rows(at_noon, "select * from peers.schedule_backfill") == []


def test_a_large_backfill_goes_in_steps(at_noon: Connection) -> None:
    """And it can be interrupted after each of them."""
    run(at_noon, "select peers.backfill_schedule('s', '2026-11-10 00:00Z', '2026-11-20 00:00Z')")
    send(at_noon, planned(due(at_noon)))
    assert len(tasks(at_noon)) == 50
    assert value(at_noon, "select fired from peers.schedule_backfill") == 50
    fire(at_noon)
    assert len(tasks(at_noon)) == 241


def test_a_backfill_is_cancelled(at_noon: Connection) -> None:
    """What is submitted stays, and nothing more comes."""
    backfill = "select peers.backfill_schedule('s', '2026-11-10 00:00Z', '2026-11-20 00:00Z')"
    number = value(at_noon, backfill)
    send(at_noon, planned(due(at_noon)))
    assert value(at_noon, "select peers.cancel_backfill(%s)", number)
    assert fire(at_noon) == []
    assert len(tasks(at_noon)) == 50
    assert not value(at_noon, "select peers.cancel_backfill(%s)", number)


def test_a_backfill_without_overlap_is_a_chain(at_noon: Connection) -> None:
    """One run after the other, whatever becomes of them."""
    run(at_noon, "update peers.schedule set overlap = 'skip'")
    run(at_noon, "select peers.backfill_schedule('s', '2026-11-23 08:00Z', '2026-11-23 10:00Z')")
    fire(at_noon)
    states = "select state::text from peers.task order by id"
    assert column(at_noon, states) == ["ready", "blocked", "blocked"]
    run(at_noon, "select peers.cancel(id) from peers.task where state = 'ready'")
    assert column(at_noon, states) == ["cancelled", "ready", "blocked"]


def test_the_tasks_of_a_backfill_are_cancelled_with_one_statement(at_noon: Connection) -> None:
    """The statement of docs/schedules.md, also for tasks that wait for each other."""
    run(at_noon, "update peers.schedule set overlap = 'skip'")
    run(at_noon, "select peers.backfill_schedule('s', '2026-11-23 06:00Z', '2026-11-23 10:00Z')")
    fire(at_noon)
    other = value(at_noon, "select peers.run_schedule('s')")
    page = (PROJECT / "docs/schedules.md").read_text()
    [statement] = re.findall(r"^SELECT peers\.cancel\(.*?;$", page, re.DOTALL | re.MULTILINE)
    run(at_noon, statement.replace("hourly", "s").replace("2026-11-02", "2026-11-23"))
    states = "select state::text from peers.task where id <> %s order by id"
    assert column(at_noon, states, other) == ["cancelled"] * 5
    assert value(at_noon, "select state::text from peers.task where id = %s", other) == "ready"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("'1969-12-31', '2026-11-23'", "from_at must be 1970 or later, not 1969-12-3"),
        ("'-infinity', '2026-11-23'", "from_at must be 1970 or later, not -infinity"),
        ("null, '2026-11-23'", "from_at must be 1970 or later, not null"),
        ("'2026-11-23', null", "until_at must be now or earlier, not null"),
        ("'2026-11-23', '2099-01-01Z'", "until_at must be now or earlier, not 2099-01-01"),
        ("'2099-01-01Z', '2026-11-23'", "from_at must be now or earlier, not 2099-01-01"),
        (
            "'2026-11-23 11:00Z', '2026-11-23 10:00Z'",
            "until_at must be from_at (2026-11-23 11:00:00 UTC) or later, not 2026-11-23 10:00:00",
        ),
    ],
)
def test_a_malformed_backfill_is_refused(at_noon: Connection, arguments: str, words: str) -> None:
    """One sentence says which time is wrong, and its bound."""
    said = refusal(at_noon, f"select peers.backfill_schedule('s', {arguments})")
    assert (said[0], words in said[1], said[1].count(" not ")) == ("PE013", True, 1)


def test_a_backfill_before_the_anchor_is_refused(db: Connection) -> None:
    """It would run nothing. One that ends at the anchor runs the first due time."""
    set_clock(db, "2026-11-23 12:00:00+00")
    add_schedule(db, every="1 hour", anchor="2026-11-23 12:00:00+00")
    fire(db)
    backfill = "select peers.backfill_schedule('s', '2026-11-20 00:00Z', %s)"
    said = refusal(db, backfill, "2026-11-23 11:59:59+00")
    assert said[0] == "PE013"
    assert "before its anchor (2026-11-23 12:00:00 UTC)" in said[1]
    explain = "select peers.explain_schedule('s', '2026-11-23 11:00Z')"
    assert "every counts from the anchor (2026-11-23 12:00:00 UTC)" in value(db, explain)
    run(db, backfill, "2026-11-23 12:00:00+00")
    fire(db)
    assert runs(db) == [("fired", None)]
    run(db, "update peers.schedule set anchor = '2026-11-01 00:00Z'")
    run(db, backfill, "2026-11-20 02:00:00+00")
    fire(db)
    assert len(runs(db)) == 4


@pytest.mark.parametrize(("overlap", "fired"), [("skip", 1), ("buffer_one", 2)])
def test_explain_says_how_to_end_the_run_that_the_others_wait_for(
    at_noon: Connection, overlap: str, fired: int
) -> None:
    """An earlier run that no peer can run makes the policy skip each later one."""
    run(
        at_noon,
        "update peers.schedule set queue = 'nowhere', overlap = %s::peers.overlap_policy",
        overlap,
    )
    for hour in (13, 14, 15):
        set_clock(at_noon, f"2026-11-23 {hour}:00:00.01+00")
        fire(at_noon)
    first, *waiting = sorted(tasks(at_noon))
    assert len(waiting) == fired - 1
    explain = "select peers.explain_schedule('s')"
    assert f"peers.cancel({first}) cancels it" in value(at_noon, explain)
    for task_id in (first, *waiting):
        run(at_noon, "select peers.cancel(%s)", task_id)
    assert "peers.cancel(" not in value(at_noon, explain)


# ---------------------------------------------------------------- what the database refuses


def test_a_poisoned_schedule_stops_no_other(db: Connection) -> None:
    """Its failure is in the ledger, it is tried again, and fires once the cause is gone."""
    set_clock(db, "2026-11-23 12:00:01+00")
    refuse_kind(db, "bad")
    for name, kind in (("a", "a"), ("bad", "bad"), ("z", "a")):
        add_schedule(db, name, kind=kind)
    fire(db)
    set_clock(db, "2026-11-23 13:00:00+00")
    done = {each["schedule"]: each["outcome"] for each in fire(db)}
    assert done == {"a": "fired", "bad": "failed", "z": "fired"}
    assert runs(db, "bad") == [("failed", "not this kind")]
    assert "not this kind" in value(db, "select peers.explain_schedule('bad')")
    waits = []
    for _ in range(12):
        found = schedule(db, "bad")
        waits.append((found["retry_at"] - value(db, "select peers.now()")).total_seconds())
        set_clock(db, f"{found['retry_at']}")
        fire(db)
    rounded = [round(wait) for wait in waits]
    assert rounded == [*(2**n for n in range(9)), 300, 300, 300]
    run(db, "drop trigger poison on peers.task")
    set_clock(db, f"{schedule(db, 'bad')['retry_at']}")
    fire(db)
    assert runs(db, "bad") == [("fired", None)]
    assert schedule(db, "bad")["failures"] == 0
    assert schedule(db, "bad")["next_due_at"] == datetime(2026, 11, 23, 14, tzinfo=UTC)


def test_a_poisoned_backfill_stops_no_other(db: Connection) -> None:
    """It waits for its retry, and the others go on."""
    refuse_kind(db, "bad")
    for name, kind in (("a", "a"), ("bad", "bad")):
        add_schedule(db, name, kind=kind)
        run(
            db, "select peers.backfill_schedule(%s, '2026-11-10 00:00Z', '2026-11-10 09:00Z')", name
        )
    fire(db)
    assert [name for name, _ in runs(db, "a")] == ["fired"] * 10
    left = row(db, "select schedule, error, failures from peers.schedule_backfill")
    assert left == {"schedule": "bad", "error": "not this kind", "failures": 1}


# ---------------------------------------------------------------------------------------- alerts


def test_an_alert_is_raised_when_no_run_completes(db: Connection) -> None:
    """It is raised once, and goes when a run has completed."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db, expect_within="30 minutes")
    peer = Peer.join(db, lease="1 day")
    fire(db)
    set_clock(db, "2026-11-23 13:00:01+00")
    fire(db)
    set_clock(db, "2026-11-23 13:29:00+00")
    assert due(db)["late"] == []
    set_clock(db, "2026-11-23 13:31:00+00")
    assert [alert["schedule"] for alert in due(db)["late"]] == ["s"]
    assert due(db)["late"] == []
    alert = row(db, "select * from peers.alert")
    assert (alert["alert"], alert["subject"]) == ("schedule_late", "s")
    assert "has completed since it was due at" in alert["message"]
    said = value(db, "select peers.explain_schedule('s')")
    assert (alert["message"] in said, "ask peers.explain_schedule" in said) == (True, False)
    set_clock(db, "2026-11-23 13:40:00+00")
    peer.heartbeat()
    peer.complete(*peer.claim())
    due(db)
    assert rows(db, "select * from peers.alert") == []
    for hour in (14, 15):
        set_clock(db, f"2026-11-23 {hour}:00:01+00")
        fire(db)
        peer.heartbeat()
        peer.complete(*peer.claim())
        set_clock(db, f"2026-11-23 {hour}:31:00+00")
        due(db)
        assert rows(db, "select * from peers.alert") == []


def test_a_look_tells_when_the_next_one_is_due_that_is_not_yet(db: Connection) -> None:
    """So that a peer is there in time, also while another one cannot be fired."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db)
    add_schedule(db, "t", cron="30 * * * *")
    assert due(db)["then"] is None
    fire(db)
    set_clock(db, "2026-11-23 12:30:01+00")
    found = due(db)
    assert datetime.fromtimestamp(found["next"], UTC).minute == 30
    assert datetime.fromtimestamp(found["then"], UTC).hour == 13


def test_an_alert_ends_with_its_expectation(db: Connection) -> None:
    """Nobody would look at it again."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db, expect_within="5 minutes")
    fire(db)
    set_clock(db, "2026-11-23 13:00:01+00")
    fire(db)
    set_clock(db, "2026-11-23 13:06:00+00")
    assert [late["schedule"] for late in due(db)["late"]] == ["s"]
    run(db, "update peers.schedule set expect_within = null")
    assert rows(db, "select * from peers.alert") == []


def test_a_run_that_was_pruned_has_completed(db: Connection) -> None:
    """Finished tasks may be kept for a shorter time than a run may take."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db, cron="0 0 1 * *", expect_within="10 days")
    fire(db)
    set_clock(db, "2026-12-01 00:00:01+00")
    fire(db)
    peer = Peer.join(db)
    peer.complete(*peer.claim())
    set_clock(db, "2026-12-09 00:00:00+00")
    run(db, "select peers.prune('7 days')")
    run(db, "select peers.prune_schedule_runs('7 days')")
    assert tasks(db) == []
    set_clock(db, "2026-12-11 00:00:02+00")
    assert due(db)["late"] == []
    assert value(db, "select peers.prune_schedule_runs('7 days')") == 1


def test_a_skipped_run_raises_an_alert_too(db: Connection) -> None:
    """What counts is that no run has completed; a pause raises none."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db, expect_within="30 minutes", misfire="skip")
    add_schedule(db, "paused", expect_within="30 minutes", paused_at="2026-11-23 12:00Z")
    fire(db)
    set_clock(db, "2026-11-23 13:31:00+00")
    fire(db)
    assert [outcome for outcome, _ in runs(db)] == ["skipped"]
    due(db)
    assert column(db, "select subject from peers.alert") == ["s"]
    run(db, "select peers.pause_schedule('s')")
    advance(db, "1 minute")
    due(db)
    assert rows(db, "select * from peers.alert") == []


# ---------------------------------------------------------------------------------- declarations


def declare(db: Connection, peer: Peer, **fields: object) -> list[tuple[str, str]]:
    """Declare a schedule as a peer does, and return what changed."""
    document = json.dumps([{"name": "n", "kind": "a", "cron": "0 2 * * *", **fields}])
    query = "select * from peers.declare_schedules(%s, %s)"
    return [(each["schedule"], each["change"]) for each in rows(db, query, peer.id, document)]


def test_a_declaration_keeps_what_an_operator_has_changed(db: Connection) -> None:
    """Until the declaration itself changes; a pause stays in any case."""
    peer = Peer.join(db)
    assert declare(db, peer) == [("n", "created")]
    assert declare(db, peer) == []
    status = "select declared, declaring_peers, changed_by_operator from peers.schedule_status"
    assert list(row(db, status).values()) == [True, 1, False]
    run(db, "update peers.schedule set cron = '0 3 * * *', paused_at = now()")
    assert declare(db, peer) == []
    assert schedule(db, "n")["cron"] == "0 3 * * *"
    assert list(row(db, status).values()) == [True, 1, True]
    assert declare(db, peer, cron="0 4 * * *") == [("n", "changed")]
    assert schedule(db, "n")["cron"] == "0 4 * * *"
    assert schedule(db, "n")["paused_at"] is not None
    assert list(row(db, status).values()) == [True, 1, False]
    peer.leave()
    assert list(row(db, status).values()) == [True, 0, False]


EVERY: Final = {"cron": None, "every": "1 hour", "anchor": "2026-11-20T06:00:00Z"}
OTHER_VALUES: Final[dict[str, object]] = {
    "kind": "b", "cron": "0 4 * * *", "every": "2 hours", "anchor": "2026-11-20T06:30:00Z",
    "timezone": "Europe/Berlin", "args": {"n": 1}, "queue": "q", "priority": 7, "max_attempts": 3,
    "timeout": "5 s", "metadata": {"m": 1}, "misfire": "all", "catch_up": "2 days",
    "overlap": "skip", "jitter": "3 s", "expect_within": "1 hour",
}  # fmt: skip


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the columns that users set and that differ."""
    return {name for name in OTHER_VALUES if before[name] != after[name]}


def test_every_field_that_can_be_declared_is_in_this_table(db: Connection) -> None:
    """So that a field that is added is in the tests that follow, too."""
    query = 'select peers.add_schedule(\'{"name": "n", "nosuch": 1}\')'
    with pytest.raises(psycopg.DatabaseError) as refused:
        db.execute(query)
    fields = str(refused.value.diag.message_hint).removeprefix("Its fields are ").rstrip(".")
    assert set(fields.split(", ")) == {"name", *OTHER_VALUES}


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_a_declaration_that_changes_one_field_changes_the_schedule(
    db: Connection, field: str
) -> None:
    """Whichever it is; the old declaration changes it back, and each one is declared once."""
    peer = Peer.join(db)
    base = {} if field == "cron" else EVERY
    assert declare(db, peer, **base) == [("n", "created")]
    before = schedule(db, "n")
    assert declare(db, peer, **base | {field: OTHER_VALUES[field]}) == [("n", "changed")]
    assert differing(before, schedule(db, "n")) == {field}
    assert declare(db, peer, **base | {field: OTHER_VALUES[field]}) == []
    assert declare(db, peer, **base) == [("n", "changed")]
    assert differing(before, schedule(db, "n")) == set()
    assert value(db, "select changed_by_operator from peers.schedule_status") is False


@pytest.mark.parametrize("field", OTHER_VALUES)
def test_an_operator_s_change_of_any_field_is_kept_and_seen(db: Connection, field: str) -> None:
    """For as long as the declaration stays the same."""
    peer = Peer.join(db)
    base = {} if field == "cron" else EVERY
    declare(db, peer, **base)
    other = OTHER_VALUES[field]
    changed = json.dumps(other) if isinstance(other, dict) else other
    db.execute(f"update peers.schedule set {field} = %s".encode(), [changed])
    assert value(db, "select changed_by_operator from peers.schedule_status") is True
    before = schedule(db, "n")
    assert declare(db, peer, **base) == []
    assert differing(before, schedule(db, "n")) == set()


def test_a_declaration_without_an_anchor_keeps_the_one_that_is_there(db: Connection) -> None:
    """An operator may set it, and the schedule counts as declared: the code says nothing of it."""
    peer = Peer.join(db)
    base = {"cron": None, "every": "1 hour"}
    declare(db, peer, **base)
    run(db, "update peers.schedule set anchor = '2026-11-20T06:30:00Z'")
    anchor = schedule(db, "n")["anchor"]
    assert value(db, "select changed_by_operator from peers.schedule_status") is False
    assert declare(db, peer, **base, priority=7) == [("n", "changed")]
    assert schedule(db, "n")["anchor"] == anchor


def test_a_declaration_of_args_keeps_nulls(db: Connection) -> None:
    """A null within args is a value; a field that is null is the default."""
    declare(db, Peer.join(db), args={"n": None}, timeout=None)
    assert schedule(db, "n")["args"] == {"n": None}


def test_a_bad_declaration_is_refused(db: Connection) -> None:
    """Like an INSERT."""
    peer = Peer.join(db)
    for bad in ('[{"name": "n", "kind": "a", "cron": "x"}]', '[{"name": "n", "nosuch": 1}]'):
        assert refusal(db, "select peers.declare_schedules(%s, %s)", peer.id, bad)[0] == "PE013"


# ---------------------------------------------------------------------------------------- others


def test_prune_deletes_old_runs_whose_tasks_have_ended(at_noon: Connection) -> None:
    """A run of an unfinished task stays, because its handler may ask for its due time."""
    for hour in (13, 14):
        set_clock(at_noon, f"2026-11-23 {hour}:00:00+00")
        fire(at_noon)
    run(at_noon, "select peers.cancel(%s)", tasks(at_noon)[0])
    prune = "select peers.prune_schedule_runs(%s)"
    assert value(at_noon, prune, "1 day") == 0
    advance(at_noon, "2 days")
    assert value(at_noon, prune, "1 day") == 1
    assert column(at_noon, "select task_id from peers.schedule_run") == tasks(at_noon)[1:]


def test_a_task_that_is_retried_late_has_its_due_time(at_noon: Connection) -> None:
    """A dead task is kept until an operator decides, and so is its run."""
    set_clock(at_noon, "2026-11-23 13:00:00+00")
    fire(at_noon)
    peer = Peer.join(at_noon)
    peer.fail(*peer.claim(), reject=True)
    advance(at_noon, "30 days")
    run(at_noon, "select peers.prune('7 days')")
    run(at_noon, "select peers.prune_schedule_runs('7 days')")
    [task_id] = tasks(at_noon)
    run(at_noon, "select peers.retry(%s)", task_id)
    due_at = value(at_noon, "select peers.task_due_at(%s)", task_id)
    assert due_at == datetime(2026, 11, 23, 13, tzinfo=UTC)


def test_a_period_is_changed_to_cron(db: Connection) -> None:
    """Its anchor goes; nobody has set it."""
    add_schedule(db, every="5 minutes")
    run(db, "update peers.schedule set cron = '0 2 * * *', every = null")
    assert schedule(db)["anchor"] is None
    run(db, "update peers.schedule set cron = null, every = '1 hour'")
    assert schedule(db)["anchor"] is not None


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("[]", "must be a JSON object, not array"),
        ("null", "must be a JSON object"),
        ("{}", "needs a name"),
        ('{"name": {"a": 1}, "kind": "a", "every": 60}', "needs a name"),
        ('{"name": "s", "kind": "a", "every": [60]}', "every must be a string or a number"),
        ('{"name": "s", "kind": "a", "every": "soon"}', 'peers.schedule "s": invalid input'),
        ('{"name": "s", "kind": "a", "every": 1e30}', "out of range"),
        ('{"name": "s", "kind": "a", "every": 60, "priority": 99999}', "out of range"),
        ('{"name": "s", "kind": "a", "every": 60, "misfire": "x"}', "misfire_policy"),
    ],
)
def test_a_malformed_description_is_refused(db: Connection, document: str, words: str) -> None:
    """With the code of schedules, so that a client raises BadSchedule."""
    code, said = refusal(db, "select peers.add_schedule(%s)", document)
    assert (code, words in said) == ("PE013", True), said


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("select", "It is due next at 2026-11-23 14:00:00 UTC. Start a peer: without one, "
                   "no schedule fires. The run that was due at 2026-11-23 13:00:00 UTC is task 1."),
        ("update peers.schedule set paused_at = now()", "It has been paused since"),
        ("select peers.cancel(1)", "is task 1. Cancelled"),
        ("delete from peers.schedule", "The schedule was deleted. The run that was due at"),
    ],
)  # fmt: skip
def test_explain_says_what_became_of_it(at_noon: Connection, statement: str, words: str) -> None:
    """In words."""
    set_clock(at_noon, "2026-11-23 13:00:01+00")
    fire(at_noon)
    run(at_noon, statement)
    assert words in value(at_noon, "select peers.explain_schedule('s')")


def test_explain_names_a_kind_that_no_peer_runs(at_noon: Connection) -> None:
    """Before the first task of the schedule waits in vain."""
    missing = 'No live peer runs kind "a" in queue "default", so its tasks wait'
    explain = "select peers.explain_schedule('s')"
    Peer.join(at_noon, "other")
    assert missing in value(at_noon, explain)
    Peer.join(at_noon)
    assert missing not in value(at_noon, explain)


def test_explain_of_a_time_in_the_past(at_noon: Connection) -> None:
    """It says why last night was missed."""
    set_clock(at_noon, "2026-11-23 15:30:00+00")
    fire(at_noon)
    explain = "select peers.explain_schedule('s', '2026-11-23 14:10Z')"
    assert "due at 2026-11-23 14:00:00 UTC was skipped, because no peer was running" in value(
        at_noon, explain
    )
    assert "no record" in value(at_noon, explain.replace("14:10Z", "04:10Z"))
