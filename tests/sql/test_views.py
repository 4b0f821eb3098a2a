"""What people read: views and explain say the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.world import Peer, World, advance, column, row, rows, run, submit, value

if TYPE_CHECKING:
    from tests.support.server import Connection


def explain(db: Connection, task_id: int) -> str:
    """The sentence."""
    return str(value(db, "select peers.explain(%s)", task_id))


def one_of_each(db: Connection, peer: Peer) -> dict[str, int]:
    """A task in every state."""
    tasks = {}
    for outcome in ("completed", "dead", "retrying", "running"):
        tasks[outcome] = submit(db, priority=1)
        claims = peer.claim(1)
        if outcome == "completed":
            peer.complete(*claims)
        elif outcome == "dead":
            peer.fail(*claims, reject=True, error_type="ValueError", error_message="no good")
        elif outcome == "retrying":
            peer.fail(*claims, retry_in=600, error_type="OSError", error_message="disk")
    tasks["ready"] = submit(db)
    tasks["scheduled"] = value(
        db, "select peers.submit('a', scheduled_at => now() + interval '1 day')"
    )
    tasks["blocked"] = submit(db, depends_on=[tasks["dead"], tasks["ready"]])
    tasks["cancelled"] = submit(db)
    run(db, "select peers.cancel(%s)", tasks["cancelled"])
    return tasks


def test_queue_status_counts_every_state(db: Connection, peer: Peer) -> None:
    """Each queue has a row with what waits, runs, is held and has died in it."""
    one_of_each(db, peer)
    submit(db, queue="other")
    run(db, "select peers.pause('empty')")
    advance(db, "10 s")
    status = {each["queue"]: each for each in rows(db, "select * from peers.queue_status")}
    assert set(status) == {"default", "other", "empty"}
    default = status["default"]
    assert {
        name: default[name] for name in ("ready", "scheduled", "running", "blocked", "dead")
    } == {
        "ready": 1,
        "scheduled": 2,
        "running": 1,
        "blocked": 1,
        "dead": 1,
    }
    assert 10 <= default["oldest_ready"].total_seconds() < 70
    assert (default["paused"], status["empty"]["paused"]) == (False, True)
    assert (status["other"]["ready"], status["empty"]["ready"]) == (1, 0)


def test_queue_status_counts_a_task_once(db: Connection) -> None:
    """A task that left stale rows behind is counted where it is, once."""
    parent = submit(db)
    child = submit(db, depends_on=[parent])
    for priority in (50, 100, 50):
        run(db, "select peers.change(%s, priority => %s)", parent, priority)
    for hours in (1, 2):
        run(
            db,
            "select peers.change(%s, scheduled_at => now() + %s * interval '1 h')",
            parent,
            hours,
        )
    status = row(db, "select * from peers.queue_status")
    assert (status["ready"], status["scheduled"], status["blocked"]) == (0, 1, 1)
    assert child > parent


def test_running_shows_what_runs_and_where(db: Connection, peer: Peer) -> None:
    """One row a task: task, peer, host, attempt, since, and when the lease would expire."""
    task_id = submit(db, timeout="60 s")
    [claim] = peer.claim()
    shown = row(db, "select * from peers.running")
    assert (shown["task_id"], shown["kind"], shown["queue"]) == (task_id, "a", "default")
    assert (shown["peer_id"], shown["host"], shown["pid"]) == (peer.id, "host-a", 4711)
    assert (shown["attempt"], shown["max_attempts"]) == (1, 5)
    heartbeat = value(db, "select heartbeat_at from peers.peer")
    assert (shown["lease_expires_at"] - heartbeat).total_seconds() == 30
    assert (shown["times_out_at"] - shown["since"]).total_seconds() == 60
    peer.complete(claim)
    assert rows(db, "select * from peers.running") == []


def test_a_task_without_a_timeout_never_times_out(db: Connection, peer: Peer) -> None:
    """`times_out_at` is null where neither the task nor its kind has a timeout."""
    submit(db)
    peer.claim()
    assert value(db, "select times_out_at from peers.running") is None


def test_peer_status_tells_the_living_from_the_lost(world: World) -> None:
    """Alive follows the heartbeat; a peer that was lost stays to be seen."""
    submit(world.db)
    lost, steady = world.peer(host="gone"), world.peer("b", host="here", queues=["q"])
    lost.claim()
    query = "select alive from peers.peer_status order by host"
    assert column(world.db, query) == [True, True]
    steady.advance_steadily(30)
    assert column(world.db, query) == [False, True]
    steady.reclaim()
    status = {each["host"]: each for each in rows(world.db, "select * from peers.peer_status")}
    assert status["gone"]["lost_at"] is not None
    assert (status["here"]["queues"], status["here"]["kinds"]) == ({"q": 8}, ["b"])
    assert (status["here"]["running"], status["gone"]["running"]) == (0, 0)


def test_unrunnable_raises_an_alarm(world: World) -> None:
    """A kind that no live peer runs in that queue is listed with its tasks; others are not."""
    query = "select queue, kind, tasks from peers.unrunnable()"
    submit(world.db, "a")
    for _ in range(3):
        submit(world.db, "nobody")
    submit(world.db, "a", queue="unserved")
    peer = world.peer("a")
    assert [tuple(each.values()) for each in rows(world.db, query)] == [
        ("default", "nobody", 3),
        ("unserved", "a", 1),
    ]
    run(world.db, "select peers.pause('unserved')")
    assert column(world.db, "select kind from peers.unrunnable()") == ["nobody"]
    advance(world.db, "31 s")  # now the only peer's heartbeat has expired
    assert column(world.db, "select kind from peers.unrunnable()") == ["a", "nobody"]
    peer.heartbeat()
    assert column(world.db, "select kind from peers.unrunnable()") == ["nobody"]


def test_unrunnable_is_cheap_however_many_kinds_there_are(world: World) -> None:
    """What is looked at follows the kinds and a bound, not peers times kinds, nor ready tasks."""
    db, kinds = world.db, [f"kind {n}" for n in range(1500)]
    run(
        db,
        "insert into peers.task (kind) select k from unnest(%s::text[]) k, generate_series(1, 20)",
        [*kinds, "nobody"],
    )
    run(db, "insert into peers.task (kind) select 'plenty' from generate_series(1, 3000)")
    for _ in range(5):
        world.peer(*kinds)
    run(db, "analyze")
    query = "select kind, tasks from peers.unrunnable()"
    alarms = [tuple(each.values()) for each in rows(db, query)]
    assert alarms == [("nobody", 20), ("plenty", 1000)]
    [plan] = rows(db, f"explain (analyze, buffers, format json) {query}")
    [top] = plan["QUERY PLAN"]
    # ten accesses for each kind to hop to it and a few for each row that is counted; 33,000 rows
    # of all kinds would be over 100,000
    assert top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"] < 30_000


WORDS = {
    "completed": ["Completed", "attempt 1"],
    "dead": ["Dead", "ValueError", "no good", "peers.retry({id})", "peers.discard({id})"],
    "retrying": ["Scheduled", "attempt 1 failed", "OSError", "disk", "due at"],
    "running": ["Running since", "attempt 1 of 5", "host-a"],
    "ready": ["Ready", "1 live peer can run it", "priority 100"],
    "scheduled": ["Scheduled: due at"],
    "blocked": ["waits for 2 parents", "task {dead} (a) is dead", "task {ready} (a) is ready"],
    "cancelled": ["Cancelled at"],
}


@pytest.mark.parametrize("case", WORDS)
def test_explain_says_why(db: Connection, peer: Peer, case: str) -> None:
    """Every state is explained with what decides."""
    tasks = one_of_each(db, peer)
    sentence = explain(db, tasks[case])
    for words in WORDS[case]:
        assert words.format(id=tasks[case], **tasks) in sentence


def test_explain_knows_pauses_and_missing_peers(world: World) -> None:
    """A ready task that nobody takes has a reason, and the sentence has the remedy."""
    lonely = submit(world.db, "nobody")
    assert 'no live peer runs kind "nobody"' in explain(world.db, lonely)
    assert "no live peer has a handler for it" in explain(world.db, lonely)
    world.peer("a")
    astray = explain(world.db, submit(world.db, "a", queue="nowhere"))
    assert 'runs kind "a" in queue "nowhere"' in astray
    assert "peers with a handler for it serve only default: start a peer that serves" in astray
    run(world.db, "select peers.pause('default')")
    assert "peers.resume('default')" in explain(world.db, lonely)


def test_explain_names_the_parent_that_took_it_down(db: Connection, peer: Peer) -> None:
    """A task cancelled with its parent says so."""
    parent = submit(db)
    child = submit(db, depends_on=[parent])
    run(db, "select peers.cancel(%s)", parent)
    assert f"its parent {parent}" in explain(db, child)
    assert peer.claim() == []


def test_explain_tells_of_an_expired_peer(db: Connection, peer: Peer) -> None:
    """A task on a silent peer is about to be reclaimed."""
    task_id = submit(db)
    peer.claim()
    advance(db, "31 s")
    assert "reclaim" in explain(db, task_id)


def test_explain_names_at_most_ten_parents(db: Connection) -> None:
    """A child of hundreds is still explained in one line."""
    child = submit(db, depends_on=[submit(db) for _ in range(30)])
    sentence = explain(db, child)
    assert "30 parents" in sentence
    assert sentence.count("is ready") == 10


WIDE = '{"n": [' + ",".join(["1e131071"] * 8000) + "]}"  # 1 GB of text
EXTREMES = {
    "a timeout": "update peers.task set timeout = '100000000 years'",
    "a heartbeat": "update peers.peer set heartbeat_at = 'infinity'",
    "a heartbeat long ago": "update peers.peer set heartbeat_at = '-infinity'",
    "an age": "update peers.task set created_at = '-infinity', scheduled_at = '-infinity'",
    "a time to come": "update peers.task set scheduled_at = 'infinity', created_at = 'infinity'",
    "an end": "update peers.task set finished_at = 'infinity', started_at = '-infinity'",
    "a death": "update peers.dead set died_at = '-infinity'",
    "args": f"update peers.task set args = '{WIDE}'",
    "metadata": f"update peers.task set metadata = '{WIDE}'",
    "a failure's times": "update peers.failure set retry_at = 'infinity', failed_at = '-infinity'",
}


@pytest.mark.parametrize("case", EXTREMES)
def test_no_value_of_one_row_makes_a_view_fail(db: Connection, peer: Peer, case: str) -> None:
    """Whatever was written by hand, views, alarms and explanations can be read."""
    tasks = one_of_each(db, peer)
    submit(db, "nobody")
    with db.transaction():
        run(db, "set local session_replication_role = replica")
        run(db, EXTREMES[case])
    views = column(db, "select viewname::text from pg_views where schemaname = 'peers'")
    assert len(views) > 4
    for view in views:
        run(db, f"create temporary table out as select x::text from peers.{view} x; drop table out")
    run(db, "select x::text from peers.unrunnable() x")
    for task_id in tasks.values():
        assert explain(db, task_id)
    assert rows(db, "select * from peers.prune('100000000 years')")


def test_explain_is_a_sentence_whatever_the_error_says(db: Connection, peer: Peer) -> None:
    """A message of 20,000 characters and many lines is shortened to one line."""
    dead, retried = submit(db), submit(db, kind="a")
    message = "first\nsecond " + "x" * 20_000
    first, second = peer.claim()
    peer.fail(first, reject=True, error_message=message)
    peer.fail(second, error_message=message)
    for task_id in (dead, retried):
        said = value(db, "select peers.explain(%s)", task_id)
        assert "first second xxx" in said
        assert "xxx..." in said
        assert len(said) < 600
        assert "\n" not in said
