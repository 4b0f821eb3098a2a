"""Schedules with real peers: they fire in time, once, whatever happens to the peers."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Final

import pytest

from tests.e2e.harness import Stage
from tests.support.schedules import refuse_kind

APP: Final = "tests.e2e.app_schedules"
ADD: Final = "insert into peers.schedule (name, every, kind) values (%s, %s::interval, %s)"


def test_an_inserted_schedule_fires_in_time(stage: Stage) -> None:
    """Idle peers fire it at its due time, each due time once, and the handler knows which it is."""
    for _ in range(3):
        stage.peer(APP)
    stage.db.execute(ADD, ("s", "1 second", "tick"))
    stage.until_true("select count(*) >= 5 from peers.task where state = 'completed'")
    stage.db.execute("delete from peers.schedule where name = 's'")
    stage.until_ended()
    runs = stage.rows(
        "select r.*, t.result, extract(epoch from r.recorded_at - r.due_at) as late"
        " from peers.schedule_run r left join peers.task t on t.id = r.task_id"
        " where schedule = 's' order by due_at"
    )
    fired = [run for run in runs if run["outcome"] == "fired"]
    assert len(fired) >= 5
    assert {run["reason"] for run in runs} <= {None, "deleted"}
    gaps = {(b["due_at"] - a["due_at"]).total_seconds() for a, b in pairwise(fired)}
    assert gaps == {1.0}
    assert all(run["result"]["due_at"] == run["due_at"].isoformat() for run in fired)
    assert sorted(run["late"] for run in fired)[len(fired) // 2] < 0.25
    fires = sum(len(peer.events("schedule_fired")) for peer in stage.peers)
    assert fires == 0, "fires are logged at debug only"


def test_schedules_of_the_code_are_declared(stage: Stage) -> None:
    """With their options; an operator's change stays; a handler has its due time in async, too."""
    peer = stage.peer(APP)
    stage.until_true("select count(*) = 3 from peers.schedule")
    status = stage.rows(
        "select name, kind, cron, timezone, declared, declaring_peers, changed_by_operator"
        " from peers.schedule_status order by name"
    )
    assert [row["name"] for row in status] == ["tick", "tock", "tock hourly"]
    assert all(row["declared"] and row["declaring_peers"] == 1 for row in status)
    assert not any(row["changed_by_operator"] for row in status)
    row = stage.row("select * from peers.schedule where name = 'tock'")
    assert (row["cron"], row["timezone"], row["overlap"]) == ("0 2 * * *", "Europe/Berlin", "skip")
    assert (row["args"], row["priority"]) == ({"n": 1}, 7)
    peer.await_event("schedule_declared", 3)
    assert {event["schedule"] for event in peer.events("schedule_declared")} == {
        "tick", "tock", "tock hourly",
    }  # fmt: skip
    stage.db.execute("update peers.schedule set cron = '30 3 * * *' where name = 'tock'")
    peer.terminate()
    stage.peer(APP)
    stage.until_true("select declaring_peers = 1 from peers.schedule_status where name = 'tock'")
    changed = stage.row("select * from peers.schedule_status where name = 'tock'")
    assert (changed["cron"], changed["changed_by_operator"]) == ("30 3 * * *", True)
    task_id = stage.row("select peers.run_schedule('tock') as id")["id"]
    stage.until_state("completed", task_id)
    due_at = stage.row("select due_at from peers.schedule_run where task_id = %s", task_id)[
        "due_at"
    ]
    assert stage.task(task_id)["result"] == {"n": 1, "due_at": due_at.isoformat()}
    other = stage.submit("tock", {"n": 3})
    stage.until_state("completed", other)
    assert stage.task(other)["result"] == {"n": 3, "due_at": None}


def test_args_of_a_schedule_that_do_not_fit_are_told_at_the_start(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A peer with such an app does not start, and says why."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "unfit.py").write_text(
        'from peers import task\n@task("a", cron="@daily")\ndef a(n: int) -> None: ...\n'
    )
    peer = stage.launch_in(stage.environment("unfit") | {"PYTHONPATH": str(folder)})
    assert peer.wait() == 78
    assert "args do not fit a" in peer.log.read_text()


def test_no_due_time_is_lost_or_fires_twice_while_peers_die(stage: Stage) -> None:
    """Peers are killed throughout; at the end each due time has one row, and one task."""
    for n in range(20):
        stage.db.execute(ADD, (f"s{n}", f"{1 + n % 3} seconds", "tick"))
    peers = [stage.peer(APP, lease_timeout="2s") for _ in range(3)]
    choice = random.Random(4711)
    for _ in range(8):
        time.sleep(choice.uniform(0.2, 1.2))  # a random moment is what is wanted
        victim = choice.randrange(3)
        peers[victim].kill()
        peers[victim] = stage.launch(APP, lease_timeout="2s")
    stage.until_true(
        "select not exists (select from peers.schedule"
        " where next_due_at is null or next_due_at < peers.now())"
    )
    stage.db.execute("delete from peers.schedule")
    stage.until_ended()
    for n in range(20):
        due = stage.rows(
            "select due_at, outcome::text from peers.schedule_run where schedule = %s order by 1",
            f"s{n}",
        )
        gaps = {(b["due_at"] - a["due_at"]).total_seconds() for a, b in pairwise(due)}
        assert gaps == {float(1 + n % 3)}, "a due time has no row"
        assert {row["outcome"] for row in due[:-1]} == {"fired"}
    counts = stage.row(
        "select count(*) as tasks, count(distinct (metadata ->> 'schedule', metadata ->> 'due_at'))"
        " as different, (select count(*) from peers.schedule_run where outcome = 'fired') as fired"
        " from peers.task"
    )
    assert counts["tasks"] == counts["different"] == counts["fired"] > 50


def test_a_poisoned_schedule_stops_no_other(stage: Stage) -> None:
    """Its failure is logged and in the ledger; the others go on firing."""
    refuse_kind(stage.db, "poisoned")
    for n in range(10):
        stage.db.execute(ADD, (f"s{n}", "1 second", "poisoned" if n % 2 else "tick"))
    peer = stage.peer(APP)
    stage.until_true("select count(*) >= 15 from peers.task where state = 'completed'")
    assert "not this kind" in peer.await_event("schedule_failed")["error"]
    stage.until_true(
        "select count(*) = 5 from (select from peers.schedule_run where outcome = 'fired'"
        " group by schedule having count(*) >= 3) s"
    )
    failed = stage.rows("select distinct reason from peers.schedule_run where outcome = 'failed'")
    assert failed == [{"reason": "not this kind"}]


def test_a_schedule_whose_task_hangs_stops_no_other(stage: Stage) -> None:
    """A trigger that never ends is given up; the schedule has failed, and the others fire."""
    stage.db.execute(
        "create function hang() returns trigger language plpgsql as $$ begin"
        " if new.kind = 'hanging' then perform pg_sleep(1000); end if; return new; end $$;"
        "create trigger hang before insert on peers.task for each row execute function hang()"
    )
    for n in range(6):
        stage.db.execute(ADD, (f"s{n}", "1 second", "tick" if n else "hanging"))
    stage.peer(APP, lease_timeout="2s")
    stage.until_true("select failures > 0 from peers.schedule where name = 's0'")
    stage.until_true(
        "select count(distinct schedule) = 5 from peers.schedule_run where outcome = 'fired'"
    )
    stage.db.execute("drop trigger hang on peers.task")
    stage.until_true(
        "select exists (select from peers.schedule_run where schedule = 's0' and outcome = 'fired')"
    )


def test_a_backfill_whose_task_is_refused_stops_no_schedule(stage: Stage) -> None:
    """An error that aborts the peer's statement as well is recorded with the backfill alone."""
    stage.db.execute(
        "create function poison() returns trigger language plpgsql as $$ begin"
        " if new.kind = 'poisoned' then raise 'broken' using errcode = 'XX000'; end if;"
        " return new; end $$;"
        "create trigger poison before insert on peers.task for each row execute function poison()"
    )
    stage.db.execute(
        "insert into peers.schedule (name, every, anchor, kind)"
        " values ('bad', '1 hour', now() - interval '90 minutes', 'poisoned')"
    )
    stage.db.execute(
        "select peers.backfill_schedule('bad', now() - interval '1 day', now() - interval '1 hour')"
    )
    for n in range(3):
        stage.db.execute(ADD, (f"s{n}", "1 second", "tick"))
    peer = stage.peer(APP)
    stage.until_true("select failures > 0 from peers.schedule_backfill")
    assert peer.await_event("schedule_failed")["schedule"] == "bad"
    stage.until_true(
        "select count(*) = 3 from (select from peers.schedule_run where outcome = 'fired'"
        " group by schedule having count(*) >= 3) s"
    )
    assert stage.rows("select * from peers.schedule_run where outcome = 'failed'") == []
