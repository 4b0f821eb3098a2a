"""Interleavings of sessions that fire, change, pause and delete a schedule.

Each scenario holds for the SQL as shipped, and fails once a safeguard is taken out.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tests.sql.scenarios import ends_soon
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
from tests.support.world import LONG_WAIT, LOOKS, result, rows, run, value

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.support.server import Connection
    from tests.support.world import World

Plan = tuple[list[dict[str, Any]], list[dict[str, Any]]]

PATIENCE: Final = "set lock_timeout = '20s'"
"""Longer than a peer's, so that a wait is seen on a busy machine, too."""


def at(hour: int) -> datetime:
    """Return a full hour of the day of these tests."""
    return datetime(2026, 11, 23, hour, tzinfo=UTC)


def one_is_due(db: Connection) -> Plan:
    """Add a schedule that is due at 13:00, let it be 13:00, and return what a peer has planned."""
    set_clock(db, "2026-11-23 12:00:01+00")
    add_schedule(db)
    fire(db)
    set_clock(db, "2026-11-23 13:00:00.1+00")
    return planned(due(db))


def two_peers_fire_at_once(world: World) -> None:
    """The second one does not wait, and fires nothing; it finds nothing afterwards either."""
    plan = one_is_due(world.db)
    first, second = world.connect(), world.connect()
    with first.transaction():
        assert [each["outcome"] for each in send(first, plan)] == ["fired"]
        work = world.background(send, second, plan)
        assert ends_soon(world, work), "a peer waited for another one"
        assert result(work) == []
    assert send(second, plan) == []
    assert len(tasks(world.db)) == 1
    assert runs(world.db) == [("fired", None)]


def a_slow_peer_fires_what_others_have_fired(world: World) -> None:
    """What it has computed long ago does not count, and moves nothing back."""
    plan = one_is_due(world.db)
    fire(world.db)
    set_clock(world.db, "2026-11-23 14:00:00.1+00")
    fire(world.db)
    assert send(world.connect(), plan) == []
    assert schedule(world.db)["next_due_at"] == at(15)
    assert len(tasks(world.db)) == 2


def a_due_time_comes_again(world: World) -> None:
    """The clock of the database was set back: the ledger knows that the time has fired."""
    one_is_due(world.db)
    fire(world.db)
    run(world.db, "delete from peers.schedule")
    set_clock(world.db, "2026-11-23 12:30:00+00")
    add_schedule(world.db)
    fire(world.db)
    set_clock(world.db, "2026-11-23 13:00:00.1+00")
    fire(world.db)
    assert len(tasks(world.db)) == 1


def a_peer_dies_while_it_fires(world: World) -> None:
    """Its transaction is undone, and another peer fires."""
    plan = one_is_due(world.db)
    victim = world.connect()
    with victim.transaction(force_rollback=True):
        send(victim, plan)
    assert tasks(world.db) == []
    assert [each["outcome"] for each in fire(world.db)] == ["fired"]


def a_schedule_is_changed_while_it_fires(world: World) -> None:
    """The change waits for the peer; the time has fired, and the next one is a new one."""
    plan = one_is_due(world.db)
    peer, operator = world.connect(), world.connect()
    change = "update peers.schedule set cron = '30 * * * *'"
    with peer.transaction():
        send(peer, plan)
        work = world.background(run, operator, change)
        world.until_waiting(operator)
    result(work)
    fire(world.db)
    assert runs(world.db) == [("fired", None)]
    assert schedule(world.db)["next_due_at"] == at(13).replace(minute=30)


def a_peer_fires_while_a_schedule_is_changed(world: World) -> None:
    """It does not wait for the operator; the time that was given up has its row in the ledger."""
    plan = one_is_due(world.db)
    operator, peer = world.connect(), world.connect()
    with operator.transaction():
        run(operator, "update peers.schedule set cron = '30 * * * *'")
        work = world.background(send, peer, plan)
        assert ends_soon(world, work), "a peer waited for an operator"
        assert result(work) == []
    assert send(peer, plan) == []
    fire(world.db)
    assert runs(world.db) == [("skipped", "changed")]
    assert tasks(world.db) == []


def a_schedule_is_changed_before_its_first_time_is_known(world: World) -> None:
    """What a peer has computed from the times of before does not count."""
    set_clock(world.db, "2026-11-23 12:00:01+00")
    add_schedule(world.db)
    plan = planned(due(world.db))
    run(world.db, "update peers.schedule set cron = '30 * * * *'")
    send(world.connect(), plan)
    fire(world.db)
    assert schedule(world.db)["next_due_at"] == at(12).replace(minute=30)


def a_schedule_is_replaced_before_its_first_time_is_known(world: World) -> None:
    """Another schedule of the same name is another schedule."""
    set_clock(world.db, "2026-11-23 12:00:01+00")
    add_schedule(world.db)
    plan = planned(due(world.db))
    run(world.db, "delete from peers.schedule")
    add_schedule(world.db, cron="30 * * * *")
    send(world.connect(), plan)
    fire(world.db)
    assert schedule(world.db)["next_due_at"] == at(12).replace(minute=30)


def a_schedule_is_deleted_while_it_fires(world: World) -> None:
    """The DELETE waits for the peer: the time has fired, and nothing was given up."""
    plan = one_is_due(world.db)
    peer, operator = world.connect(), world.connect()
    with peer.transaction():
        send(peer, plan)
        work = world.background(run, operator, "delete from peers.schedule")
        world.until_waiting(operator)
    result(work)
    assert runs(world.db) == [("fired", None)]
    assert fire(world.db) == []


def a_peer_fires_while_a_schedule_is_deleted(world: World) -> None:
    """It does not wait, and fires nothing after the DELETE; the ledger says so."""
    plan = one_is_due(world.db)
    operator, peer = world.connect(), world.connect()
    with operator.transaction():
        run(operator, "delete from peers.schedule")
        work = world.background(send, peer, plan)
        assert ends_soon(world, work), "a peer waited for an operator"
    assert result(work) == []
    assert send(peer, plan) == []
    assert tasks(world.db) == []
    assert runs(world.db) == [("skipped", "deleted")]


def a_schedule_is_paused_while_it_fires(world: World) -> None:
    """Whoever pauses waits for the peer: after that, nothing fires any more."""
    plan = one_is_due(world.db)
    peer, operator = world.connect(), world.connect()
    with peer.transaction():
        send(peer, plan)
        work = world.background(run, operator, "select peers.pause_schedule('s')")
        world.until_waiting(operator)
    result(work)
    set_clock(world.db, "2026-11-23 14:00:00.1+00")
    fire(world.db)
    assert runs(world.db) == [("fired", None), ("skipped", "paused")]


def a_peer_fires_while_a_schedule_is_paused(world: World) -> None:
    """It does not wait for the operator, and after the pause, it fires nothing."""
    plan = one_is_due(world.db)
    operator, peer = world.connect(), world.connect()
    with operator.transaction():
        run(operator, "select peers.pause_schedule('s')")
        work = world.background(send, peer, plan)
        assert ends_soon(world, work), "a peer waited for an operator"
        assert result(work) == []
    assert [each["reason"] for each in send(peer, plan)] == ["paused"]
    assert tasks(world.db) == []


def hundreds_of_schedules_are_locked(world: World) -> None:
    """They are due first, and do not keep the others from firing."""
    set_clock(world.db, "2026-11-23 12:00:01+00")
    run(
        world.db,
        "insert into peers.schedule (name, cron, kind)"
        " select 'locked ' || n, '0 * * * *', 'a' from generate_series(1, 600) n",
    )
    add_schedule(world.db, "free", cron="1 13 * * *")
    fire(world.db)
    set_clock(world.db, "2026-11-23 13:01:00+00")
    operator, peer = world.connect(), world.connect()
    with operator.transaction():
        run(operator, "update peers.schedule set priority = 5 where name like 'locked%'")
        work = world.background(due, peer, unlocked=True)
        assert ends_soon(world, work), "a peer waited for an operator"
        fired = send(peer, planned(result(work)))
        assert {each["schedule"] for each in fired} == {"free"}
    assert len(planned(due(peer, unlocked=True))[0]) == 50


def a_schedule_is_locked_while_a_peer_declares_it(world: World) -> None:
    """The others are declared at once, and the heartbeat of the peer need not wait."""
    run(world.db, "insert into peers.schedule (name, every, kind) values ('b', '1 hour', 'a')")
    peer, operator, adder = world.peer(), world.connect(), world.connect()
    documents = [{"name": name, "kind": "a", "cron": "@daily"} for name in "abcd"]
    query = "select schedule, change from peers.declare_schedules(%s, %s)"
    with operator.transaction(), adder.transaction():
        run(operator, "select * from peers.schedule where name = 'b' for update")
        run(adder, "insert into peers.schedule (name, every, kind) values ('c', '1 hour', 'a')")
        work = world.background(rows, peer.db, query, peer.id, json.dumps(documents))
        assert ends_soon(world, work), "a peer waited for an operator"
        found = {each["schedule"]: each["change"] for each in result(work)}
        assert found == {"a": "created", "b": "locked", "c": "locked", "d": "created"}
    again = rows(peer.db, query, peer.id, json.dumps(documents))
    assert {each["schedule"]: each["change"] for each in again} == {"b": "changed", "c": "changed"}
    assert value(world.db, "select count(*) from peers.schedule where cron = '@daily'") == 4


def hundreds_of_schedules_are_added_while_a_peer_declares_them(world: World) -> None:
    """The peer waits for that session once, and not for each schedule."""
    peer, adder = world.peer(), world.connect()
    run(world.db, "alter function peers.declare_schedules set lock_timeout = '3s'")
    documents = [{"name": f"s{n}", "kind": "a", "cron": "@daily"} for n in range(200)]
    documents.append({"name": "z", "kind": "a", "cron": "@daily"})
    query = "select schedule, change from peers.declare_schedules(%s, %s)"
    with adder.transaction(force_rollback=True):
        run(
            adder,
            "insert into peers.schedule (name, every, kind)"
            " select 's' || n, '1 hour', 'a' from generate_series(0, 199) n",
        )
        work = world.background(rows, peer.db, query, peer.id, json.dumps(documents))
        waits_for_locks(world, peer.db, work, long_waits=1)
        found = {each["schedule"]: each["change"] for each in result(work)}
    assert found.pop("z") == "created"
    assert set(found.values()) == {"locked"}


def a_pause_ends_before_a_peer_looks(world: World) -> None:
    """The times of the pause do not run after it."""
    one_is_due(world.db)
    run(world.db, "select peers.pause_schedule('s')")
    run(world.db, "select peers.resume_schedule('s')")
    fire(world.db)
    assert runs(world.db) == [("skipped", "paused")]


def a_run_is_demanded_while_the_schedule_fires(world: World) -> None:
    """It waits for the peer, and both run."""
    plan = one_is_due(world.db)
    peer, operator = world.connect(), world.connect()
    with peer.transaction():
        send(peer, plan)
        work = world.background(value, operator, "select peers.run_schedule('s')")
        world.until_waiting(operator)
    result(work)
    assert len(tasks(world.db)) == 2


def a_task_refuses_to_be_submitted(world: World) -> None:
    """A schedule whose task the database refuses stops no other in the same call."""
    refuse_kind(world.db, "bad")
    set_clock(world.db, "2026-11-23 12:00:01+00")
    for name in ("a", "b", "c"):
        add_schedule(world.db, name, kind="bad" if name == "b" else "a")
    fire(world.db)
    set_clock(world.db, "2026-11-23 13:00:00.1+00")
    send(world.db, planned(due(world.db)))
    assert len(tasks(world.db)) == 2
    assert runs(world.db, "b") == [("failed", "not this kind")]


def two_peers_continue_a_backfill(world: World) -> None:
    """One of them does it; each due time has one task."""
    set_clock(world.db, "2026-11-23 12:00:01+00")
    add_schedule(world.db)
    fire(world.db)
    run(world.db, "select peers.backfill_schedule('s', '2026-11-20 00:00Z', '2026-11-22 23:00Z')")
    plan = planned(due(world.db))
    first, second = world.connect(), world.connect()
    with first.transaction():
        assert len(send(first, plan)) == 50
        work = world.background(send, second, plan)
        assert ends_soon(world, work), "a peer waited for another one"
    assert result(work) == []
    assert send(second, plan) == []
    assert value(world.db, "select fired from peers.schedule_backfill") == 50
    fire(world.db)
    assert len(tasks(world.db)) == 72
    assert rows(world.db, "select from peers.schedule_backfill") == []


def waits_for_locks(
    world: World, session: Connection, work: Future[Any], *, long_waits: int = 0
) -> int:
    """Return how often the session waited for a lock until the work ended.

    Fail as soon as there are more long waits than these. A busy machine makes the work slow, but
    it does not add waits.
    """
    query = (
        "select waitstart, clock_timestamp() - waitstart > make_interval(secs => %s) as is_long"
        " from pg_locks where pid = %s and not granted and waitstart is not null"
    )
    looks: Counter[datetime] = Counter()
    long: set[datetime] = set()
    while not work.done():
        for wait in rows(world.db, query, LONG_WAIT, session.info.backend_pid):
            looks[wait["waitstart"]] += 1
            if wait["is_long"] and looks[wait["waitstart"]] > LOOKS:
                long.add(wait["waitstart"])
        assert len(long) <= long_waits, "the locks of another session stop the others"
        run(world.db, "select pg_sleep(0.002)")
    return len(looks)


def fired_beside_locked(world: World, *lockers: str) -> list[dict[str, Any]]:
    """Lock with these statements, fire until the schedule `free` has fired.

    Return what became of the due times. Each transaction of the peer waits for a lock only once.
    """
    peer = world.connect()
    run(peer, PATIENCE)
    found: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        for locker in lockers:
            session = world.connect()
            stack.enter_context(session.transaction(force_rollback=True))
            run(session, locker)
        for _ in range(20):
            work = world.background(lambda: send(peer, planned(due(peer))))
            waits = waits_for_locks(world, peer, work)
            assert waits <= 2, "it waits once for schedules, and once for backfills"
            made = result(work)
            found += made
            if any(each["schedule"] == "free" and each["outcome"] for each in found):
                return found
    raise AssertionError("the locks of another session stop the others")


def earlier_runs_are_locked(world: World) -> None:
    """A hundred schedules whose runs a session has locked do not stop the others.

    They fire once that session has ended.
    """
    set_clock(world.db, "2026-11-23 12:00:01+00")
    run(
        world.db,
        "insert into peers.schedule (name, cron, kind, overlap)"
        " select 'locked ' || n, '0 * * * *', 'a',"
        " (array['buffer_one', 'cancel_other'])[1 + n % 2]::peers.overlap_policy"
        " from generate_series(1, 100) n",
    )
    add_schedule(world.db, "free")
    fire(world.db)
    set_clock(world.db, "2026-11-23 13:00:00.1+00")
    fire(world.db)
    set_clock(world.db, "2026-11-23 14:00:00.1+00")
    found = fired_beside_locked(world, "select from peers.task for update")
    failed = [each for each in found if each["outcome"] == "failed"]
    assert [each["schedule"] for each in found if each["outcome"] == "fired"] == ["free"]
    assert all("another session has locked task" in each["reason"] for each in failed)
    set_clock(world.db, "2026-11-23 14:00:02+00")
    fire(world.db)
    assert value(world.db, "select count(*) from peers.schedule_run where outcome = 'fired'") == 202


def a_run_ends_while_its_schedule_fires(world: World) -> None:
    """A lock that is released within a moment does not fail the schedule."""
    # a busy machine takes longer than the shipped limit
    run(world.db, "alter function peers.fire_schedules set lock_timeout = '10s'")
    set_clock(world.db, "2026-11-23 12:00:01+00")
    add_schedule(world.db, overlap="buffer_one")
    fire(world.db)
    set_clock(world.db, "2026-11-23 13:00:00.1+00")
    fire(world.db)
    set_clock(world.db, "2026-11-23 14:00:00.1+00")
    plan = planned(due(world.db))
    other, peer = world.connect(), world.connect()
    with other.transaction():
        run(other, "select from peers.task for update")
        work = world.background(send, peer, plan)
        world.until_waiting(peer)
    assert [each["outcome"] for each in result(work)] == ["fired"]


def the_last_task_of_a_backfill_is_locked(world: World) -> None:
    """The backfill waits for its next try, and the schedules fire."""
    set_clock(world.db, "2026-11-23 12:00:01+00")
    add_schedule(world.db, overlap="skip")
    add_schedule(world.db, "free")
    fire(world.db)
    run(world.db, "select peers.backfill_schedule('s', '2026-11-20 00:00Z', '2026-11-22 23:00Z')")
    send(world.db, planned(due(world.db)))
    set_clock(world.db, "2026-11-23 13:00:00.1+00")
    fired_beside_locked(world, "select from peers.task for update")
    error = value(world.db, "select error from peers.schedule_backfill")
    assert "another session has locked task" in error


def an_alert_is_locked(world: World) -> None:
    """Whoever has deleted or locked rows of peers.alert stops no schedule."""
    set_clock(world.db, "2026-11-23 12:00:01+00")
    for name in ("late", "done"):
        add_schedule(world.db, name, expect_within="1 minute")
    add_schedule(world.db, "free")
    fire(world.db)
    set_clock(world.db, "2026-11-23 13:00:00.1+00")
    fire(world.db)
    set_clock(world.db, "2026-11-23 13:30:00+00")
    assert len(due(world.db)["late"]) == 2
    task_id = value(world.db, "select task_id from peers.schedule_run where schedule = 'done'")
    peer = world.peer()
    claims = peer.claim()
    peer.complete(*[claim for claim in claims if claim.task_id == task_id])
    set_clock(world.db, "2026-11-23 14:00:00.1+00")
    fired_beside_locked(world, "delete from peers.alert")
    assert len(due(world.db)["late"]) == 0
    set_clock(world.db, "2026-11-23 14:00:31+00")
    due(world.db)
    assert rows(world.db, "select subject from peers.alert") == [{"subject": "late"}]
