"""Metrics in the database: what peers report, and what can be measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from psycopg import errors

from peers.metrics import catalog
from peers.metrics.counts import MOST_KINDS, OTHER
from peers.metrics.histogram import BOUNDS
from tests.support.world import (
    Patch,
    Peer,
    advance,
    apply_patches,
    row,
    rows,
    run,
    stop_clock,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection
    from tests.support.world import World


def record(peer: Peer, *metrics: dict[str, Any]) -> None:
    """Report these counts."""
    run(peer.db, "select peers.record_metrics(%s, %s::jsonb)", peer.id, json.dumps(metrics))


def of_kind(kind: str = "a", **counts: Any) -> dict[str, Any]:
    """Counts of a kind in queue default."""
    return {"queue": "default", "kind": kind, **counts}


def metric(db: Connection, name: str, **labels: str) -> float | None:
    """The value of a series of the view; None: there is none."""
    found = rows(
        db, "select value from peers.metrics where name = %s and labels @> %s::jsonb", name,
        json.dumps(labels),
    )  # fmt: skip
    assert len(found) <= 1
    return float(found[0]["value"]) if found else None


# ------------------------------------------------------------------------------------- reports


def test_reports_add_up(db: Connection, peer: Peer) -> None:
    """From several peers, in one report or several."""
    other = Peer.join(db)
    record(peer, of_kind(completed=2, run_seconds=0.5, run_buckets=[1, 0, 1]))
    record(other, of_kind(completed=3, run_seconds=0.25, run_buckets=[0, 2]), {"fenced": 1})
    record(peer, of_kind(completed=1), of_kind(completed=1), of_kind("b", dead=4))
    assert metric(db, "peers_tasks_completed_total", kind="a") == 7
    assert metric(db, "peers_tasks_dead_total", kind="b") == 4
    assert metric(db, "peers_peers_fenced_total") == 1
    assert metric(db, "peers_task_run_seconds_sum", kind="a") == 0.75
    assert metric(db, "peers_task_run_seconds_count", kind="a") == 4
    assert metric(db, "peers_task_run_seconds_bucket", kind="a", le="0.001") == 3
    assert metric(db, "peers_task_run_seconds_bucket", kind="a", le="+Inf") == 4


def test_totals_survive_the_hour_and_their_peer(db: Connection, peer: Peer) -> None:
    """Minutes are folded into one row for each kind, and no total changes."""
    for _ in range(3):
        record(peer, of_kind(completed=5, wait_seconds=1, wait_buckets=[5]), {"fenced": 1})
        advance(db, "50 minutes")
        peer = Peer.join(db)
        assert metric(db, "peers_task_wait_seconds_count", kind="a") == metric(
            db, "peers_tasks_completed_total", kind="a"
        )
    record(peer, of_kind(completed=1))
    assert metric(db, "peers_tasks_completed_total", kind="a") == 16
    assert metric(db, "peers_peers_fenced_total") == 3
    assert value(db, "select count(*) from peers.metric where minute > '-infinity'") <= 3


def test_ten_thousand_kinds_are_bounded(db: Connection, peer: Peer) -> None:
    """Whatever peers report: further kinds are counted together."""
    record(peer, *(of_kind(f"kind-{number}", completed=1) for number in range(10_000)))
    record(peer, of_kind("kind-10000", completed=1), of_kind("kind-10", completed=1))
    assert value(db, "select count(*) from peers.metric where minute = '-infinity'") == MOST_KINDS
    assert value(db, "select sum(completed)::integer from peers.metric") == 10_002
    other = metric(db, "peers_tasks_completed_total", kind=OTHER)
    assert other == 10_002 - MOST_KINDS - 1


@pytest.mark.parametrize("metrics", ['{"completed": 1}', '[{"completed": -1}]', "null", "5",
                                     '[{"run_buckets": [1, -1]}]'])  # fmt: skip
def test_a_report_that_makes_no_sense_is_refused(db: Connection, peer: Peer, metrics: str) -> None:
    """A total must never fall."""
    with pytest.raises(errors.Error) as error:
        run(db, "select peers.record_metrics(%s, %s::jsonb)", peer.id, metrics)
    assert error.value.sqlstate == "PE009"


def test_a_peer_that_nobody_knows_cannot_report(db: Connection) -> None:
    """A lost peer still can: what it has counted happened."""
    with pytest.raises(errors.Error) as error:
        run(db, "select peers.record_metrics(gen_random_uuid(), '[]')")
    assert error.value.sqlstate == "PE010"
    peer, watcher = Peer.join(db), Peer.join(db)
    watcher.advance_steadily(60)
    watcher.reclaim()
    assert value(db, "select lost_at is not null from peers.peer where id = %s", peer.id)
    record(peer, of_kind(completed=1))
    assert metric(db, "peers_tasks_completed_total", kind="a") == 1


def test_an_update_of_a_minute_writes_no_index_entry(db: Connection, peer: Peer) -> None:
    """Otherwise the table would grow with each report."""
    for _ in range(20):
        record(peer, of_kind(completed=1, run_buckets=[1]))
    run(db, "select pg_stat_force_next_flush()")
    found = row(
        db, "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'metric'"
    )
    assert found["n_tup_upd"] == found["n_tup_hot_upd"] >= 19


def test_peers_and_database_have_the_same_bounds(db: Connection) -> None:
    """A report is nothing but counts: both sides must know what they count."""
    assert value(db, "select peers.metric_bounds()") == list(BOUNDS)


# ---------------------------------------------------------------------------------- throughput


def test_throughput_is_of_the_last_minutes(db: Connection, peer: Peer) -> None:
    """What is older does not count, and of the first minute only what lies in the window."""
    stop_clock(db, "date_trunc('minute', peers.now())")
    record(peer, of_kind(completed=1000))
    advance(db, "10 minutes")
    record(peer, of_kind(completed=60, failed=6, run_buckets=[0, 0, 60], wait_buckets=[0, 100]))
    advance(db, "90 seconds")
    found = row(db, "select * from peers.throughput('5 minutes')")
    assert (found["queue"], found["kind"]) == ("default", "a")
    assert (found["completed"], found["failed"]) == (60, 6)
    assert found["p50_run"] == pytest.approx(0.00175)
    assert found["p95_wait"] == pytest.approx(0.000975)
    assert row(db, "select * from peers.throughput('1 minute')")["completed"] == 30
    assert row(db, "select * from peers.throughput('20 minutes')")["completed"] == 1060
    advance(db, "6 minutes")
    assert rows(db, "select * from peers.throughput('5 minutes')") == []


def test_throughput_knows_an_hour_only(db: Connection) -> None:
    """Older figures are totals."""
    for window in ("2 hours", "1 second", None):
        with pytest.raises(errors.Error) as error:
            rows(db, "select * from peers.throughput(%s::interval)", window)
        assert error.value.sqlstate == "PE009"
        with pytest.raises(errors.Error, match="window must be 1 minute to 1 hour") as error:
            rows(db, "select * from peers.histogram('run', %s::interval)", window)
        assert error.value.sqlstate == "PE009"


def test_a_histogram_can_be_read_in_psql(db: Connection, peer: Peer) -> None:
    """One row for each bucket that is not empty."""
    record(peer, of_kind(wait_buckets=[2, *[0] * (len(BOUNDS) - 1), 4]))
    found = rows(db, "select * from peers.histogram('wait')")
    assert [(each["up_to"], each["tasks"]) for each in found] == [
        ("00:00:00.0005", 2),
        ("longer", 4),
    ]
    assert found[1]["share"] == "#" * 30


# ------------------------------------------------------------------------------ waiting since


def waited(peer: Peer, queue: str = "default") -> list[float]:
    """How long each task of a claim has waited, in seconds."""
    answer = row(peer.db, "select * from peers.claim(%s, %s, 100)", peer.id, queue)
    assert len(answer["ready_at"] or []) == len(answer["task_ids"])
    return [(answer["claimed_at"] - each).total_seconds() for each in answer["ready_at"] or []]


def age(db: Connection, table: str = "ready") -> None:
    """Make the rows of a table an hour old."""
    run(db, "set search_path = pg_catalog, peers, pg_temp")  # as the verbs do
    run(db, f"update peers.{table} set ready_at = ready_at - interval '1 hour'")
    run(db, "reset search_path")


def test_a_claim_tells_how_long_its_tasks_have_waited(db: Connection, peer: Peer) -> None:
    """In the order of the tasks, whatever that is."""
    submit(db), submit(db)
    age(db)
    submit(db, priority=5)
    new, old, older = waited(peer)
    assert 0 <= new < 60
    assert 3600 <= old <= older + 1


def test_a_task_that_was_scheduled_has_not_waited(db: Connection, peer: Peer) -> None:
    """Its time has come just now."""
    submit(db, scheduled_at=value(db, "select peers.now() + interval '1 hour'"))
    advance(db, "2 hours")
    peer = Peer.join(db)
    run(db, "select peers.promote()")
    assert waited(peer)[0] < 60


def test_a_retried_task_waits_from_its_retry_on(db: Connection, peer: Peer) -> None:
    """The wait of its first attempt does not count."""
    submit(db)
    age(db)
    [claim] = peer.claim()
    peer.fail(claim, retry_in=0)
    assert waited(peer)[0] < 60


def test_a_child_waits_from_the_end_of_its_parents(db: Connection, peer: Peer) -> None:
    """What it waited for before is no fault of the peers."""
    parent = submit(db)
    value(db, "select peers.submit('a', depends_on => array[%s]::bigint[])", parent)
    age(db)
    [claim] = peer.claim()
    peer.complete(claim)
    assert waited(peer)[0] < 60


def test_obstacles_change_no_wait(db: Connection, peer: Peer) -> None:
    """Stale rows send the claim on its careful path."""
    stale, fresh = submit(db), submit(db)
    age(db)
    run(db, "select peers.cancel(%s)", stale)
    [found] = waited(peer)
    assert found >= 3600
    assert value(db, "select state from peers.task where id = %s", fresh) == "running"


def test_a_limited_task_has_waited_too(db: Connection, peer: Peer) -> None:
    """Also one that was moved to where limited tasks wait, and back."""
    submit(db)
    age(db)
    run(db, "insert into peers.limit (name, kind, max_running) values ('l', 'a', 1)")
    run(db, "select peers.place_limited(100)")
    query = "select * from peers.claim_limited(%s, 'default', 10, 5)"
    found = [each for each in rows(db, query, peer.id) if each["token"]]
    if not found:
        found = [each for each in rows(db, query, peer.id) if each["token"]]
    [lease] = found
    assert (lease["claimed_at"] - lease["ready_at"][0]).total_seconds() >= 3600
    submit(db)
    age(db, "ready_limited")
    run(db, "delete from peers.limit")
    run(db, "select peers.place_limited(100)")
    assert waited(peer)[0] >= 3600


# -------------------------------------------------------------------------------------- gauges


def test_gauges_describe_a_database_in_trouble(db: Connection, peer: Peer) -> None:
    """Each of them says what an operator would find."""
    dead = submit(db, max_attempts=1)
    value(db, "select peers.submit('a', depends_on => array[%s]::bigint[])", dead)
    [claim] = peer.claim()
    peer.fail(claim)
    submit(db, kind="nobody")
    submit(db)
    peer.claim()
    submit(db)
    age(db)
    submit(db, scheduled_at=value(db, "select peers.now() + interval '1 hour'"))
    run(db, "insert into peers.limit (name, kind, max_running) values ('shut', 'z', 1)")
    run(db, "select peers.shut_limit('shut')")
    run(db, "insert into peers.schedule (name, cron, kind) values ('nightly', '@daily', 'a')")
    states = {
        state: metric(db, "peers_queue_tasks", queue="default", state=state)
        for state in ("ready", "scheduled", "running", "blocked", "dead")
    }
    assert states == {"ready": 2, "scheduled": 1, "running": 1, "blocked": 1, "dead": 1}
    assert metric(db, "peers_queue_oldest_ready_seconds", queue="default") == pytest.approx(
        3600, abs=60
    )
    assert metric(db, "peers_held_children", queue="default") == 1
    assert metric(db, "peers_dead_letters", kind="a") == 1
    assert metric(db, "peers_unrunnable_tasks", kind="nobody") == 1
    assert metric(db, "peers_limit_full", limit="shut") == 1
    assert metric(db, "peers_schedule_late", schedule="nightly") == 0
    assert metric(db, "peers_expired_leases") == 0
    assert metric(db, "peers_heartbeat_age_seconds", peer_id=str(peer.id)) < 60  # type: ignore[operator]
    advance(db, "1 minute")
    assert metric(db, "peers_expired_leases") == 1


@pytest.mark.parametrize("name", ["peers_dead_letters", "peers_unrunnable_tasks"])
def test_gauges_of_more_kinds_than_series_add_up(db: Connection, name: str) -> None:
    """The kinds with most tasks have a series each; the others are counted together."""
    peer = Peer.join(db, *(f"k{i}" for i in range(1, 601) if name == "peers_dead_letters"))
    run(db, "select peers.submit('k' || i, max_attempts => 1) from generate_series(1, 600) i")
    run(db, "select peers.submit('k600', max_attempts => 1) from generate_series(1, 2)")
    while claims := peer.claim():
        for claim in claims:
            peer.fail(claim)
    age(db)
    found = rows(db, "select labels, value from peers.metrics where name = %s", name)
    values = {each["labels"]["kind"]: each["value"] for each in found}
    assert len(found) == MOST_KINDS + 1
    assert sum(values.values()) == 602
    assert (values["k600"], values[OTHER]) == (3, 600 - MOST_KINDS)


def test_a_queue_that_is_served_has_a_depth_of_zero(db: Connection) -> None:
    """An alert can tell an empty queue from a missing figure."""
    Peer.join(db, queues=("default", "media"))
    for queue in ("default", "media"):
        assert metric(db, "peers_queue_tasks", queue=queue, state="ready") == 0
        assert metric(db, "peers_queue_oldest_ready_seconds", queue=queue) == 0


def test_a_limit_is_full_by_its_keys(db: Connection) -> None:
    """Each key counts by itself."""
    run(db, "insert into peers.limit (name, kind, key, max_running) values ('l', 'a', 'x', 2)")
    peer = Peer.join(db)
    for key in (1, 1, 2):
        submit(db, args={"x": key})
    rows(db, "select * from peers.claim_limited(%s, 'default', 10, 5)", peer.id)
    assert value(db, "select count(*) from peers.task where state = 'running'") == 3
    assert metric(db, "peers_limit_full", limit="l") == 1


@pytest.mark.parametrize(
    ("weights", "full"),
    [((2, 2, 2, 2), 1), ((3, 3), 1), ((3, 1), 0), ((8,), 1), ((4.5,), 1), ((4,), 0), ((0, 0), 0)],
)
def test_a_limit_by_weight_is_full_without_room_for_another_task(
    db: Connection, weights: tuple[float, ...], full: int
) -> None:
    """One of the mean weight of those that run: 6 of 8 is full for tasks that weigh 3."""
    run(db, "insert into peers.limit (name, kind, weight, max_running) values ('l', 'a', 'x', 8)")
    peer = Peer.join(db)
    for weight in weights:
        submit(db, args={"x": weight})
    for _ in weights:
        rows(db, "select * from peers.claim_limited(%s, 'default', 10, 5)", peer.id)
    assert value(db, "select count(*) from peers.task where state = 'running'") == len(weights)
    assert metric(db, "peers_limit_full", limit="l") == full


def test_an_old_transaction_is_seen(world: World) -> None:
    """One that keeps vacuum from its work."""
    other = world.connect()
    other.execute("begin isolation level repeatable read")
    other.execute("select 1 from peers.task")
    world.db.execute("select pg_sleep(0.05)")
    found = metric(world.db, "peers_oldest_snapshot_seconds")
    assert found is not None
    assert found >= 0.05
    other.execute("rollback")


def test_a_large_backlog_is_estimated(db: Connection) -> None:
    """Gauges read some pages only, and are near the truth."""
    run(db, "insert into peers.task (kind, queue) select 'a', 'big' from generate_series(1, 40000)")
    run(db, "insert into peers.task (kind, queue) select 'a', 'small' from generate_series(1, 7)")
    assert metric(db, "peers_queue_tasks", queue="big", state="ready") == pytest.approx(
        40_000, rel=0.25
    )
    assert metric(db, "peers_queue_tasks", queue="small", state="ready") == 7


def test_the_view_has_every_metric(db: Connection, peer: Peer) -> None:
    """By the names of the catalog, and with its labels; and nothing else."""
    dead = submit(db, max_attempts=1)
    [claim] = peer.claim()
    peer.fail(claim)
    submit(db, kind="nobody")
    run(db, "insert into peers.limit (name, kind, max_running) values ('l', 'z', 1)")
    run(db, "insert into peers.schedule (name, cron, kind) values ('s', '@daily', 'a')")
    record(peer, of_kind(completed=1, run_buckets=[1], wait_buckets=[1]))
    found: dict[str, set[str]] = {}
    for each in rows(db, "select * from peers.metrics"):
        found.setdefault(each["name"], set()).update(each["labels"])
    expected: dict[str, set[str]] = {}
    for wanted in catalog.ALL:
        if wanted.type == catalog.HISTOGRAM:
            expected[f"{wanted.name}_bucket"] = {*wanted.labels, "le"}
            expected[f"{wanted.name}_sum"] = expected[f"{wanted.name}_count"] = {*wanted.labels}
        else:
            expected[wanted.name] = {*wanted.labels}
    assert found == expected
    assert dead


# ------------------------------------------------------------------------------------ verdicts


def test_fail_tells_what_became_of_each_task(db: Connection, peer: Peer) -> None:
    """So that a peer can count it."""
    for attempts in (1, 5, 5, 5):
        submit(db, max_attempts=attempts)
    claims = peer.claim()
    run(db, "select peers.cancel(%s)", claims[2].task_id)
    reports = [
        {"task_id": claim.task_id, "token": str(claim.token), "error_type": "Oops"}
        for claim in claims
    ]
    reports[3]["snooze"] = True
    reports.append({**reports[0], "token": "00000000-0000-0000-0000-000000000000"})
    found = rows(db, "select * from peers.fail(%s, %s)", peer.id, json.dumps(reports))
    by_task = {(each["task_id"], str(each["token"])): each["verdict"] for each in found}
    assert [by_task[claim.task_id, str(claim.token)] for claim in claims] == [
        "dead", "retried", "cancelled", "snoozed",
    ]  # fmt: skip
    assert by_task[claims[0].task_id, "00000000-0000-0000-0000-000000000000"] == "stale"


def test_reclaim_tells_what_became_of_each_task(db: Connection) -> None:
    """The peer that takes them back counts them."""
    lost, watcher = Peer.join(db), Peer.join(db)
    submit(db, max_attempts=1), submit(db)
    lost.claim()
    watcher.advance_steadily(60)
    found = [(each["queue"], each["kind"], each["outcome"]) for each in watcher.reclaim()]
    assert found == [("default", "a", "dead"), ("default", "a", "retried")]


# ------------------------------------------------------------------------------ the safeguards


def test_reports_at_the_same_moment_lose_nothing(world: World) -> None:
    """Peers add to the same rows, in whatever order they name the kinds."""
    peers = [Peer.join(world.db).id for _ in range(4)]
    kinds = [of_kind(kind, completed=1, run_buckets=[1]) for kind in "abcdef"]

    def report(number: int) -> None:
        with world.connect() as session:
            for turn in range(25):
                metrics = kinds if (number + turn) % 2 else kinds[::-1]
                run(
                    session, "select peers.record_metrics(%s, %s::jsonb)", peers[number],
                    json.dumps(metrics),
                )  # fmt: skip

    for done in [world.pool.submit(report, number) for number in range(4)]:
        done.result(60)
    for kind in "abcdef":
        assert metric(world.db, "peers_tasks_completed_total", kind=kind) == 100
        assert metric(world.db, "peers_task_run_seconds_count", kind=kind) == 100


METRICS: Final = "70_metrics.sql"
VARIANTS: Final[dict[str, tuple[Callable[[Connection, Peer], None], Patch]]] = {
    "minutes are deleted without being added": (
        test_totals_survive_the_hour_and_their_peer,
        Patch(METRICS, "    perform peers._add_metrics(_folded);\n", ""),
    ),
    "a report replaces the last one": (
        test_reports_add_up,
        Patch(
            METRICS,
            "completed = m.completed + excluded.completed",
            "completed = excluded.completed",
        ),
    ),
    "the number of kinds has no bound": (
        test_ten_thousand_kinds_are_bounded,
        Patch(METRICS, "_most constant integer := 500;", "_most constant integer := 1000000;"),
    ),
    "a claim with obstacles forgets the waits": (
        test_obstacles_change_no_wait,
        Patch(
            "46_claim_carefully.sql", "    tasks.ready_at := peers._ready_times(", "    perform ("
        ),
    ),
    "a row that is moved begins to wait again": (
        test_a_limited_task_has_waited_too,
        Patch("29_place_limited.sql", ", p.ready_at", ", statement_timestamp()", times=2),
    ),
    "the order of the tasks is lost": (
        test_a_claim_tells_how_long_its_tasks_have_waited,
        Patch(
            "45_claim.sql",
            "array_agg(t.args), array_agg(t.ready_at)",
            "array_agg(t.args), array_agg(t.ready_at order by t.id)",
        ),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_without_its_safeguard_a_test_fails(db: Connection, peer: Peer, name: str) -> None:
    """A test that passes all the same would prove nothing."""
    test, patch = VARIANTS[name]
    apply_patches(db, [patch])
    with pytest.raises(AssertionError):
        test(db, peer)
