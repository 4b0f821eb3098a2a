"""How an idle peer comes to know of work: the doorbell, and polling behind it."""

from __future__ import annotations

from tests.e2e.harness import Stage

HUSH = """
    create or replace function peers._notify(_payload text default '') returns void language plpgsql
        set search_path = pg_catalog, peers, pg_temp
    as $$ begin end $$
"""


def test_an_idle_peer_hears_of_a_task_at_once(stage: Stage) -> None:
    """With a poll only every hour, nothing but the doorbell can have told it; so it is too when the
    task comes by plain INSERT, by COPY, by the end of a parent, and by a failure that is tried at
    once.
    """
    stage.peer(poll_interval="1h")
    plain = stage.row("insert into peers.task (kind) values ('noop') returning id")["id"]
    stage.until_state("completed", plain)
    with (
        stage.db.cursor() as cursor,
        cursor.copy("copy peers.task (kind, args) from stdin") as copy,
    ):
        copy.write_row(("noop", '{"n": 2}'))
    stage.until_ended()
    parent = stage.submit("noop")
    child = stage.submit("rollup", depends_on=[parent])
    stage.until_state("completed", parent, child)
    again = stage.submit("dies.once", {"how": "exit"})
    stage.until_state("completed", again)


def test_an_idle_peer_hears_of_a_task_whose_time_has_come(stage: Stage) -> None:
    """A scheduled task starts when it is due, not an hour later."""
    stage.peer(poll_interval="1h")
    task_id = stage.row(
        "insert into peers.task (kind, scheduled_at) values ('noop', now() + interval '500 ms')"
        " returning id"
    )["id"]
    stage.until_state("completed", task_id)
    task = stage.task(task_id)
    assert task["started_at"] >= task["scheduled_at"]


def test_polling_alone_finds_the_work(stage: Stage) -> None:
    """Where no bell can be heard, every task is still found, children and retries among them."""
    stage.db.execute(HUSH)
    stage.peer(poll_interval="50ms")
    first = stage.submit("noop")
    child = stage.submit("rollup", depends_on=[first])
    again = stage.submit("dies.once", {"how": "exit"})
    stage.until_state("completed", first, child, again)
    later = stage.submit("noop")
    stage.until_state("completed", later)
    stage.assert_clean()


def test_a_queue_that_is_paused_is_left_alone_until_it_is_resumed(stage: Stage) -> None:
    """Nothing starts from a paused queue; what ran when it was paused runs on; resume is heard at
    once.
    """
    stage.peer(slots=2, poll_interval="1h")
    running = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(running)
    stage.db.execute("select peers.pause('default')")
    waiting = stage.submit("noop")
    stage.open(stage.gate())
    stage.until_state("completed", running)
    assert stage.started(waiting) == []
    stage.db.execute("select peers.resume('default')")
    stage.until_state("completed", waiting)


def test_an_idle_peer_leaves_the_database_in_peace(stage: Stage) -> None:
    """While several heartbeats pass, a peer without work that polls every hour asks for work a
    handful of times, not all the time.
    """
    name = stage.row("select current_database() as name")["name"]
    stage.db.execute(f'alter database "{name}" set track_functions = pl')
    peer = stage.peer(heartbeat_interval="500ms", poll_interval="1h")
    stage.until_true(
        "select heartbeat_at - joined_at > interval '4 s' from peers.peer where id = %s",
        peer.joined(),
    )
    assert peer.terminate() == 0
    stage.until_true(
        "select coalesce(sum(calls), 0) > 5 from pg_stat_user_functions"
        " where funcname = 'heartbeat'"
    )
    calls = {
        row["funcname"]: row["calls"]
        for row in stage.rows("select funcname, calls from pg_stat_user_functions")
    }
    assert calls["claim"] <= 5
    assert calls["reconcile"] <= 5
    assert calls["heartbeat"] <= 60
