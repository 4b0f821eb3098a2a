"""What the database refuses: an outcome, a statement, a whole session. It ends no peer."""

from __future__ import annotations

import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql

from tests.e2e.harness import Stage, until
from tests.support.server import Databases, open_connection, sql_files

APP = "tests.e2e.app_refused"
DRAIN_TIMEOUT = 30.0

REFUSE = """
    create function public.refuse() returns trigger language plpgsql as $$
    begin
        raise exception 'the application says no to task %%', new.id using errcode = {};
    end $$;
    create trigger refuse before update on peers.task for each row
        when ({}) execute function public.refuse();
"""
REFUSE_CLAIM = REFUSE.replace("%%", "%").format(
    "'P0001'", "new.state = 'running' and new.id % 500 = 0"
)
AT_LAST = "drop function public.refuse cascade"


@pytest.fixture
def latin(databases: Databases, tmp_path: Path) -> Iterator[Stage]:
    """A stage on a database in LATIN1, which has no sign for the euro."""
    with databases.empty() as beside:
        name = f"{tmp_path.name}_latin1"
        with open_connection(beside) as admin:
            admin.execute(
                sql.SQL(
                    "create database {} encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'"
                    " template template0"
                ).format(sql.Identifier(name))
            )
            try:
                with open_connection(databases.url(name)) as connection:
                    for file in sql_files():
                        connection.execute(file.read_bytes())
                with Stage(databases.url(name), tmp_path) as stage:
                    yield stage
            finally:
                admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.mark.parametrize("where", ["stage", "latin"])
def test_an_outcome_that_cannot_be_written_down_fails_its_own_task(
    request: pytest.FixtureRequest, where: str
) -> None:
    """A retry in an infinite time or in none, a NUL in the name of an exception, a character that
    the database does not have: that task fails, those around it complete, and the peer lives.
    """
    stage: Stage = request.getfixturevalue(where)
    peer = stage.peer(APP, slots=2)
    odd, even = [], []
    with stage.db.transaction():
        for n, what in enumerate(("infinity", "nan", "euro", "name", "result")):
            even += [stage.submit("even", {"n": n}), stage.submit("even", {"n": n})]
            odd.append(stage.submit("odd", {"what": what}))
    stage.until_state("completed", *even)
    ended = odd if where == "latin" else odd[:-1]  # where the result can be kept, it is
    stage.until_state("dead", *ended)
    for task_id in ended:
        [failure] = stage.failures(task_id)
        assert failure["error_type"]
        assert failure["error_message"]
    assert peer.process.poll() is None
    assert len(peer.events("peer_joined")) == 1
    assert stage.rows("select * from peers.check()") == []


def test_a_trigger_that_refuses_a_claim_holds_up_that_task_alone(stage: Stage) -> None:
    """The database then looks for the tasks that it cannot start, for no longer than a statement
    may take, and starts the others.
    """
    peer = stage.peer(lease_timeout="3s", poll_interval="500ms")
    stage.db.execute("insert into peers.task (kind) select 'noop' from generate_series(1, 3000)")
    stage.until_ended()  # now the peer knows how quick they are
    stage.db.execute(REFUSE_CLAIM)
    stage.db.execute("insert into peers.task (kind) select 'noop' from generate_series(1, 2000)")
    stage.until_true("select count(*) = 4 from peers.task where state not in ('completed')")
    assert stage.rows("select distinct state from peers.task where id % 500 = 0 and id > 3000") == [
        {"state": "ready"}
    ]
    stage.db.execute(AT_LAST)
    stage.until_ended()
    assert len(peer.events("peer_joined")) == 1
    assert stage.rows("select * from peers.check()") == []


def test_a_trigger_that_refuses_an_outcome_fails_that_task(stage: Stage) -> None:
    """An application's own trigger does not let a task complete: it fails with what the trigger
    said, others of its batch complete, and the peer lives.
    """
    bad = stage.submit("even", {"n": 13})
    condition = f"new.id = {bad} and new.state = 'completed'"
    stage.db.execute(REFUSE.format("'P0001'", condition).replace("%%", "%").encode())
    peer = stage.peer(APP, slots=2)
    good = [stage.submit("even", {"n": n}) for n in range(5)]
    stage.until_state("completed", *good)
    stage.until_state("dead", bad)
    for failure in stage.failures(bad):
        assert failure["error_type"] == "OutcomeRefused"
        assert f"the application says no to task {bad}" in failure["error_message"]
    assert peer.process.poll() is None
    assert stage.rows("select * from peers.check()") == []


def test_a_trigger_that_refuses_every_outcome_holds_up_nobody(stage: Stage) -> None:
    """A trigger that lets a running task neither complete nor fail: its lease is kept, the outcome
    is offered again, and recorded once the trigger is gone; others go on meanwhile, and a drain
    does not wait for it.
    """
    bad = stage.submit("even", {"n": 13})
    condition = f"new.id = {bad} and old.state = 'running'"
    stage.db.execute(REFUSE.format("'P0001'", condition).replace("%%", "%").encode())
    peer = stage.peer(APP, slots=1, lease_timeout="2s")
    peer.await_event("outcome_refused", times=2)
    good = [stage.submit("even", {"n": n}) for n in range(5)]
    stage.until_state("completed", *good)
    assert stage.task(bad)["state"] == "running"
    assert stage.task(bad)["attempt"] == 1
    told = time.monotonic()
    assert peer.terminate() == 0
    assert time.monotonic() - told < DRAIN_TIMEOUT
    stage.peer(APP, slots=1, lease_timeout="1s")
    stage.db.execute(AT_LAST)
    stage.until_true("select state in ('completed', 'dead') from peers.task where id = %s", bad)
    assert stage.rows("select * from peers.check()") == []


VERBS = {
    "claim": "uuid, text, integer, peers.claim_resume",
    "complete": "uuid, uuid[], bigint[], jsonb, boolean",
    "fail": "uuid, jsonb, boolean",
    "release": "uuid, bigint[], uuid[], text[], boolean",
    "reconcile": "uuid, uuid[]",
    "heartbeat": "uuid",
    "reclaim": "uuid, integer",
    "promote": "integer",
    "apply_retention": "interval, interval, integer",
    "unrunnable": "",
}


def test_no_verb_that_fails_ends_a_peer(stage: Stage) -> None:
    """Each function that a peer calls is broken for a while (its statement raises an error of the
    plainest kind): it is told, the peer lives, and once it is mended all goes on.
    """
    peer = stage.peer(APP, slots=1, lease_timeout="2s", poll_interval="100ms", keep_completed="0s")
    for verb, arguments in VERBS.items():
        stage.db.execute(f"alter function peers.{verb}({arguments}) rename to {verb}_")
    told = ("database_refused", "maintenance_failed", "heartbeat_failed")
    stage.submit("even", {"n": 1})
    for event in told:
        peer.await_event(event)
    for verb, arguments in VERBS.items():
        stage.db.execute(f"alter function peers.{verb}_({arguments}) rename to {verb}")
    after = [stage.submit("even", {"n": 2}), stage.submit("fails")]
    stage.until_state("completed", after[0])
    stage.until_state("dead", after[1])
    assert peer.process.poll() is None
    assert peer.terminate() == 0


def test_a_peer_that_ends_by_a_fault_of_its_own_leaves_first(stage: Stage) -> None:
    """Whatever ends the main loop: handlers are stopped, leases given back, the peer leaves, the
    log has the traceback, and the exit code is 1.
    """
    environment = stage.environment("tests.e2e.app", slots=1)
    environment["PYTHONPATH"] = str(stage.folder)
    (stage.folder / "sitecustomize.py").write_text(FAULT)
    peer = stage.launch_in(environment)
    peer.joined()
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    [worker] = {entry.pid for entry in stage.started(task_id)}
    peer.send(signal.SIGUSR1)
    assert peer.wait() == 1
    [failed] = peer.events("peer_failed")
    assert "ZeroDivisionError" in failed["error"]
    assert "in _watch_workers" in failed["traceback"]
    task = stage.task(task_id)
    assert (task["state"], task["attempt"]) == ("ready", 0)
    assert stage.rows("select id from peers.peer") == []
    assert not Path(f"/proc/{worker}").exists()


FAULT = """
import signal, sys
if sys.argv[:1] == ["-m"]:
    from peers.pool.pool import WorkerPool
    tick = WorkerPool.tick
    broken = []
    WorkerPool.tick = lambda self, now: 1 / 0 if broken else tick(self, now)
    signal.signal(signal.SIGUSR1, lambda *_: broken.append(1))
"""


# ---------------------------------------------------------------------------- out of descriptors


def test_a_peer_without_a_free_descriptor_goes_on(stage: Stage) -> None:
    """No descriptor is to be had for a new worker, a new connection, a message to the supervisor,
    whichever comes first: it is told, the peer lives, and afterwards everything is replaced.
    """
    peer = stage.peer("tests.e2e.app", slots=2, lease_timeout="30s")
    stage.submit("noop")
    stage.until_ended()
    soft, hard = resource.prlimit(peer.pid, resource.RLIMIT_NOFILE)
    for spare in (0, 1, 3, 6):
        highest = max(int(fd.name) for fd in Path(f"/proc/{peer.pid}/fd").iterdir())
        resource.prlimit(peer.pid, resource.RLIMIT_NOFILE, (highest + 1 + spare, hard))
        before = len(peer.log.read_text())
        dies = stage.submit("dies", {"how": "exit"})
        stage.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name ~ '^peers' and datname = current_database()"
        )
        until(lambda: len(peer.log.read_text()) > before, "a word of it")  # noqa: B023
        time.sleep(0.3)
        assert peer.process.poll() is None, peer.log.read_text()[-3000:]
        resource.prlimit(peer.pid, resource.RLIMIT_NOFILE, (soft, hard))
        stage.until_state("dead", dies)
    after = [stage.submit("noop") for _ in range(4)]
    stage.until_state("completed", *after)
    assert len(peer.events("peer_joined")) == 1
    assert peer.terminate() == 0
