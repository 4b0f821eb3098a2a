"""What handlers ask of their peer stops nobody else, and what they submit exists once."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.e2e.disasters import LEASE
from tests.e2e.harness import Stage
from tests.support.commits import CommitProxy, Cut

APP = "tests.e2e.app_submissions"
LARGE = 500  # nodes: more than what counts as quick
BLOCKING = """
    create function wait_at_the_gate() returns trigger language plpgsql as $$
    begin
        if exists (select from new_tasks where kind = 'child') then
            perform pg_advisory_xact_lock_shared(4711);
        end if;
        return null;
    end $$;
    create trigger zz_wait after insert on peers.task referencing new table as new_tasks
        for each statement execute function wait_at_the_gate();
"""


@contextmanager
def submissions_wait(stage: Stage) -> Iterator[None]:
    """Whoever submits a child waits in the database, as if it took so long, until the end."""
    stage.db.execute(BLOCKING)
    with stage.connect() as gate:
        gate.execute("select pg_advisory_lock(4711)")
        yield


def until_submitting(stage: Stage, count: int = 1) -> None:
    """Until so many submissions of handlers wait there."""
    stage.until_true(
        "select count(*) >= %s from pg_stat_activity"
        " where wait_event_type = 'Lock' and application_name like 'peers %%'"
        " and datname = current_database()",
        count,
    )


def test_a_graph_that_takes_longer_than_a_lease_stops_nobody(stage: Stage) -> None:
    """While the database works on one handler's graph, other handlers' requests are answered, tasks
    complete, and the lease is renewed, for which the main loop must turn; the graph exists once,
    and soon afterwards the connection is closed.
    """
    peer = stage.peer(APP, slots="default=1,quick=1", **LEASE)
    with submissions_wait(stage):
        task_id = stage.submit("submits", {"children": LARGE})
        until_submitting(stage)
        [began] = stage.rows("select heartbeat_at from peers.peer")
        renewed = "select heartbeat_at > %s + lease_timeout * 1.5 as enough from peers.peer"
        while not stage.row(renewed, began["heartbeat_at"])["enough"]:
            quick = stage.submit("reports", {"times": 3}, queue="quick")
            stage.until_state("completed", quick)
        assert stage.task(task_id)["state"] == "running"
    stage.until_state("completed", task_id)
    made = stage.rows("select id from peers.task where kind = 'child' order by id")
    assert [each["id"] for each in made] == sorted(stage.task(task_id)["result"]["ids"])
    assert len(made) == LARGE
    assert stage.task(task_id)["attempt"] == 1
    for name in ("peer_fenced", "peer_lost", "database_lost"):
        assert peer.events(name) == []
    stage.until_true(
        "select not exists (select from pg_stat_activity"
        " where application_name = 'peers requests' and datname = current_database())"
    )


def test_a_submission_whose_handler_is_stopped_is_given_up(stage: Stage) -> None:
    """A timeout, a crash and the end of a drain each abort what the handler was submitting, long
    before it would end by itself; the drain gives the task back, and no attempt counts.
    """
    peer = stage.peer(APP, slots=2, drain_timeout="1ms")
    with submissions_wait(stage):
        late = stage.submit("submits", {"children": LARGE}, timeout="1 s", max_attempts=1)
        crash = stage.submit("submits", {"children": 1, "die_after": 0.2}, max_attempts=1)
        stage.until_state("dead", late, crash)
        drained = stage.submit("submits", {"children": LARGE})
        until_submitting(stage)
        peer.send(signal.SIGTERM)
        assert peer.wait() == 0
    assert [stage.failures(each)[0]["error_type"] for each in (late, crash)] == ["timeout", "crash"]
    assert stage.rows("select from peers.task where kind = 'child'") == []
    assert stage.rows("select from peers.peer") == [], "it could leave, having released everything"
    task = stage.task(drained)
    assert (task["state"], task["attempt"]) == ("ready", 0)


def test_what_handlers_submit_exists_once_per_attempt_whatever_breaks(
    stage: Stage, tmp_path: Path
) -> None:
    """Twenty handlers submit graphs while COMMITs are lost on either side, connections are
    terminated and workers killed at random moments: each attempt has made its whole graph once or
    not at all, and the ids that a handler got are those that exist.
    """
    luck = random.Random(4711)
    proxy = CommitProxy(tmp_path, stage.url)
    proxy.cuts = iter(lambda: luck.choice([None, *Cut]), "never")
    stage.peer(APP, slots=3, database_url=proxy.url)
    over = threading.Event()
    breaking = threading.Thread(target=terminate_now_and_then, args=(stage.url, luck, over))
    breaking.start()
    try:
        with stage.db.transaction():
            ids = [
                stage.submit("submits", {"children": luck.choice([1, 5, LARGE]), "die_after": when})
                for when in [None, None, None, luck.uniform(0.0, 0.3)] * 5
            ]
        stage.until_state("completed", *ids)
    finally:
        over.set()
        breaking.join()
        proxy.close()
    assert proxy.commits >= len(ids)
    made = {
        (each["parent"], each["token"]): each
        for each in stage.rows(
            "select (args ->> 'parent')::bigint as parent, args ->> 'token' as token,"
            " count(distinct created_xid) as submissions, array_agg(id order by id) as ids"
            " from peers.task where kind = 'child' group by 1, 2"
        )
    }
    for (parent, _), each in made.items():
        assert each["submissions"] == 1
        assert len(each["ids"]) == stage.task(parent)["args"]["children"], "whole"
    for task_id in ids:
        task = stage.task(task_id)
        assert sorted(task["result"]["ids"]) == made[task_id, str(task["token"])]["ids"]


def test_a_handler_that_runs_again_submits_its_keyed_graph_once_for_good(stage: Stage) -> None:
    """Its second attempt gets the ids that the first one made, and makes no others."""
    stage.peer(APP)
    task_id = stage.submit("submits.with.key", {"key": "nightly"})
    stage.until_state("completed", task_id)
    assert len(stage.started(task_id)) == 2
    made = stage.rows("select id from peers.task where kind = 'child' order by id")
    assert [each["id"] for each in made] == stage.task(task_id)["result"]["ids"]


def terminate_now_and_then(url: str, luck: random.Random, over: threading.Event) -> None:
    """Cut off whatever requests of handlers are under way, again and again."""
    with psycopg.connect(url, autocommit=True) as connection:
        while not over.wait(luck.uniform(0.0, 0.4)):
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'peers requests' and datname = current_database()"
            )


def test_a_task_that_was_reclaimed_meanwhile_submits_nothing(stage: Stage) -> None:
    """A peer that stands still past its lease in the middle of a submission: another runs the task,
    whose children exist once.
    """
    stopped = stage.peer(APP, **LEASE)
    with submissions_wait(stage):
        task_id = stage.submit("submits", {"children": LARGE})
        until_submitting(stage)
        stopped.send(signal.SIGSTOP)
        stage.peer(APP, **LEASE)
    stage.until_state("completed", task_id)
    stopped.send(signal.SIGCONT)
    stopped.joined(times=2)
    made = stage.rows("select id from peers.task where kind = 'child' order by id")
    assert [each["id"] for each in made] == sorted(stage.task(task_id)["result"]["ids"])
