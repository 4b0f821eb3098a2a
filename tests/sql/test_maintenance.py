"""Upkeep: prune deletes what nobody needs, check finds what the triggers did not see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.server import sql_files
from tests.support.world import (
    Peer,
    World,
    advance,
    column,
    problems,
    refusal,
    row,
    rows,
    run,
    state,
    states,
    submit,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection


def prune(
    db: Connection, older_than: str = "0 s", max_tasks: int = 10_000
) -> tuple[int, int, bool]:
    """One step of prune: looked_at, deleted, finished."""
    found = row(db, "select * from peers.prune(%s::interval, %s)", older_than, max_tasks)
    return found["looked_at"], found["deleted"], found["finished"]


def retention(db: Connection) -> tuple[int, int, bool]:
    """The same as a peer does it."""
    found = row(db, "select * from peers.apply_retention('0 s', null)")
    return found["looked_at"], found["deleted"], found["finished"]


def finish(peer: Peer, count: int) -> list[int]:
    """New tasks that were completed."""
    ids = [submit(peer.db) for _ in range(count)]
    assert peer.complete(*peer.claim(count)) == {}
    return ids


def test_what_ended_long_ago_goes_and_the_rest_stays(db: Connection, peer: Peer) -> None:
    """Completed and cancelled tasks older than asked are deleted, with failures and keys."""
    old = finish(peer, 3)
    cancelled = submit(db, idempotency_key="k")
    [claim] = peer.claim()
    run(db, "select peers.cancel(%s)", cancelled)
    peer.fail(claim)
    advance(db, "10 days")
    peer.heartbeat()
    young = finish(peer, 2)
    waiting = submit(db)
    dead = submit(db, priority=1)
    peer.fail(*peer.claim(1), reject=True)
    assert prune(db, "5 days") == (8, 4, True)
    assert column(db, "select id from peers.task order by id") == [*young, waiting, dead]
    assert column(db, "select task_id from peers.failure") == [dead]
    assert submit(db, idempotency_key="k") > dead
    assert problems(db) == []
    assert old


def test_what_a_child_still_needs_stays(db: Connection, peer: Peer) -> None:
    """A parent lives as long as a child is unfinished or dead; its edges go with it."""
    parent = submit(db)
    child = submit(db, depends_on=[parent], max_attempts=1)
    peer.complete(*peer.claim(), result={"n": 1})
    advance(db, "1 day")
    peer.heartbeat()
    assert prune(db)[1] == 0
    peer.fail(*peer.claim())
    assert prune(db)[1] == 0
    run(db, "select peers.retry(%s)", child)
    [again] = peer.claim()
    assert rows(db, "select result from peers.parent_results(%s)", child) == [{"result": {"n": 1}}]
    peer.complete(again)
    advance(db, "1 day")
    assert prune(db)[1] == 2
    assert value(db, "select count(*) from peers.dependency") == 0
    assert value(db, "select count(*) from peers.failure") == 0


def test_prune_walks_in_steps_and_remembers_its_place(db: Connection, peer: Peer) -> None:
    """Each call looks at a bounded number of tasks and goes on where the last one stopped."""
    finish(peer, 25)
    advance(db, "1 day")
    assert [prune(db, max_tasks=10) for _ in range(3)] == [
        (10, 10, False),
        (10, 10, False),
        (5, 5, True),
    ]
    peer.heartbeat()
    kept = submit(db)
    assert prune(db, max_tasks=10) == (1, 0, True)
    assert state(db, kept) == "ready"


def test_prune_passes_over_what_is_locked(world: World) -> None:
    """An application that holds a row keeps it, and keeps nobody waiting."""
    peer, application = world.peer(), world.connect()
    first, second = finish(peer, 2)
    advance(world.db, "1 day")
    with application.transaction():
        run(application, "select from peers.task where id = %s for share", first)
        assert prune(world.db)[1] == 1
    assert prune(world.db)[1] == 1
    assert second > first


def test_a_prune_that_somebody_keeps_open_stops_nobody(world: World) -> None:
    """While a transaction that has pruned stays open, peers have nothing to do, at once."""
    peer, other = world.peer(), world.connect()
    finish(peer, 3)
    advance(world.db, "1 day")
    with other.transaction():
        assert prune(other, max_tasks=2) == (2, 2, False)
        assert retention(world.db) == (0, 0, True)
    assert prune(world.db) == (1, 1, True)


def test_an_edge_to_a_parent_that_is_being_pruned(world: World) -> None:
    """Who adds an edge to a parent while it is pruned gets an error or an edge, never a stray."""
    peer, application, pruner = world.peer(), world.connect(), world.connect()
    [parent] = finish(peer, 1)
    advance(world.db, "1 day")
    with pruner.transaction():
        assert prune(pruner)[1] == 1
        work = world.background(submit, application, depends_on=[parent])
        world.until_waiting_or_done(application, work)
    error = work.exception(timeout=60)
    assert isinstance(error, psycopg.DatabaseError)
    assert error.sqlstate == "PE007"
    assert problems(world.db) == []


@pytest.mark.parametrize("older_than", ["-1 day", None])
def test_an_absurd_age_is_refused(db: Connection, older_than: str | None) -> None:
    """Nobody prunes the future."""
    with pytest.raises(psycopg.DatabaseError, match="older_than") as refused:
        run(db, "select * from peers.prune(%s)", older_than)
    assert refused.value.sqlstate == "PE009"


@pytest.mark.parametrize("max_tasks", [0, -1, None])
def test_an_absurd_step_is_refused(db: Connection, max_tasks: int | None) -> None:
    """A step looks at one task or more."""
    with pytest.raises(psycopg.DatabaseError, match="max_tasks") as refused:
        run(db, "select * from peers.prune('1 day', %s)", max_tasks)
    assert refused.value.sqlstate == "PE009"


def test_check_is_silent_when_all_is_well(world: World) -> None:
    """A database full of everything has no problem."""
    db, peer = world.db, world.peer()
    parents = [submit(db) for _ in range(3)]
    child = submit(db, depends_on=parents)
    submit(db, depends_on=[child], on_parent_failure="cancel")
    peer.complete(*peer.claim(1))
    peer.fail(*peer.claim(1), reject=True)
    peer.fail(*peer.claim(1), retry_in=100)
    submit(db)
    peer.claim()
    assert rows(db, "select * from peers.check(true)") == []


def damage(db: Connection, statement: str) -> None:
    """Does what triggers do not see."""
    with db.transaction():
        run(db, "set local session_replication_role = replica")
        run(db, statement)


DAMAGE = {
    "a ready task without its row": (
        "insert into peers.task (kind) values ('a')",
        "neither peers.ready nor peers.ready_limited has a matching row",
        "ready",
    ),
    "a later task that was not scheduled": (
        "insert into peers.task (kind, state, scheduled_at) values"
        " ('a', 'scheduled', now() + interval '1 day')",
        "peers.scheduled has no matching row",
        "scheduled",
    ),
    "a running task without a lease": (
        "insert into peers.task (kind, state, attempt) values ('a', 'running', 1)",
        "there is no lease",
        "ready",
    ),
    "a blocked task that nothing holds": (
        "insert into peers.task (kind, state) values ('a', 'blocked')",
        "it waits for no parent",
        "ready",
    ),
    "a wrong counter": (
        "insert into peers.task (kind, pending_parents) values ('a', 3)",
        "pending_parents is 3, counted 0",
        "ready",
    ),
    "a dead task without its row": (
        "insert into peers.task (kind, state) values ('a', 'dead')",
        "peers.dead has no row",
        "dead",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_check_finds_and_repairs(db: Connection, peer: Peer, case: str) -> None:
    """Each damage is listed with its task, is left alone without repair, and repaired with it."""
    statement, words, repaired_state = DAMAGE[case]
    damage(db, statement)
    [task_id] = column(db, "select id from peers.task")
    [found] = rows(db, "select * from peers.check()")
    assert (found["task_id"], found["repaired"]) == (task_id, False)
    assert words in found["problem"]
    [found] = rows(db, "select * from peers.check(repair => true)")
    assert (found["task_id"], found["repaired"]) == (task_id, True)
    assert problems(db) == []
    assert state(db, task_id) == repaired_state
    if repaired_state == "ready":
        [claim] = peer.claim()
        assert (claim.task_id, claim.attempt) == (task_id, 1)


def test_edges_that_were_restored_without_triggers_are_counted(db: Connection, peer: Peer) -> None:
    """After a data-only load, check blocks the children that must wait, and releases the others."""
    parent, child, done = submit(db), submit(db), submit(db)
    damage(
        db,
        f"insert into peers.dependency (parent_id, child_id) values ({parent}, {child});"
        f" update peers.task set state = 'completed' where id = {done}",
    )
    late = submit(db, depends_on=[parent])
    damage(db, f"update peers.task set pending_parents = 0 where id = {late}")
    found = {each["task_id"] for each in rows(db, "select * from peers.check(true)")}
    assert found == {child, late}
    assert problems(db) == []
    assert states(db, parent, child, late) == ["ready", "blocked", "blocked"]
    peer.complete(*(claim for claim in peer.claim() if claim.task_id == parent))
    assert states(db, child, late) == ["ready", "ready"]


def test_after_a_restore_all_leases_are_lost(world: World) -> None:
    """Peers of before a restore are silent: what they ran, as the backup has it, runs again."""
    task_id = submit(world.db)
    before = world.peer()
    [claim] = before.claim()
    advance(world.db, "3 days")
    after = world.peer()
    after.advance_steadily(30)
    assert [each["task_id"] for each in after.reclaim()] == [task_id]
    [again] = after.claim()
    assert before.complete(claim) == {claim.pair: "stale"}
    assert after.complete(again) == {}
    assert problems(world.db) == []


def test_an_edge_from_a_parent_that_is_gone(db: Connection) -> None:
    """A child of a lost parent does not wait for ever."""
    parent = submit(db)
    child = submit(db, depends_on=[parent])
    damage(db, f"delete from peers.task where id = {parent}")
    assert [each["task_id"] for each in rows(db, "select * from peers.check(true)")] != []
    assert problems(db) == []
    assert state(db, child) == "ready"


def test_a_lease_of_a_task_that_is_gone(db: Connection, peer: Peer) -> None:
    """A lease without a task is found and dropped."""
    submit(db)
    peer.claim()
    damage(db, "delete from peers.task")
    [found] = rows(db, "select * from peers.check(true)")
    assert "is 1, counted 0" in found["problem"]
    assert value(db, "select count(*) from peers.lease") == 0


def test_a_lease_that_counts_wrong(db: Connection, peer: Peer) -> None:
    """A wrong number of running tasks is found, and counted again."""
    for _ in range(2):
        submit(db)
    one, two = peer.claim()
    damage(db, "update peers.lease set open = 5")
    [found] = rows(db, "select * from peers.check(true)")
    assert "is 5, counted 2" in found["problem"]
    assert problems(db) == []
    assert peer.complete(one, two) == {}
    assert rows(db, "select from peers.lease") == []


def test_a_lease_without_a_running_task(db: Connection, peer: Peer) -> None:
    """It is found and deleted, although its number is right."""
    task_id = submit(db)
    assert peer.complete(*peer.claim()) == {}
    run(
        db,
        "insert into peers.lease (token, peer_id, task_ids, open, claimed_at)"
        " values (gen_random_uuid(), %s, %s, 0, now())",
        peer.id,
        [task_id],
    )
    [found] = rows(db, "select * from peers.check(true)")
    assert (found["task_id"], "has no running task" in found["problem"]) == (task_id, True)
    assert problems(db) == []
    assert rows(db, "select from peers.lease") == []


def test_what_an_attempt_left_behind(db: Connection, peer: Peer) -> None:
    """A cancel request and a progress of an ended attempt are found and deleted; others stay."""
    ended, running = submit(db), submit(db)
    one, two = peer.claim()
    for claim in (one, two):
        run(db, "select peers.progress(%s, %s, %s, 1, 2)", peer.id, *claim.pair)
        run(db, "select peers.cancel(%s)", claim.task_id)
    damage(db, f"update peers.task set state = 'completed', finished_at = now() where id = {ended}")
    found = rows(db, "select * from peers.check(true)")
    assert [each["task_id"] for each in found] == [ended] * 3  # and the lease counts wrong
    assert problems(db) == []
    for table in ("cancel_request", "task_progress"):
        assert column(db, f"select task_id from peers.{table}") == [running]


def test_a_lease_without_a_peer(db: Connection, peer: Peer) -> None:
    """Its tasks are found, and made ready again; the attempt does not count."""
    ids = [submit(db) for _ in range(2)]
    peer.claim()
    damage(db, "delete from peers.peer")
    found = rows(db, "select * from peers.check(true)")
    assert [each["task_id"] for each in found] == ids
    assert "the peer of its lease does not exist" in found[0]["problem"]
    assert problems(db) == []
    assert [claim.attempt for claim in Peer.join(db).claim()] == [1, 1]


def test_a_reclaim_finds_leases_whose_tasks_are_gone(world: World) -> None:
    """The lease of a lost peer goes even if an application has deleted its tasks."""
    gone, kept = submit(world.db), submit(world.db)
    lost, steady = world.peer(), world.peer("other")
    lost.claim()
    damage(world.db, f"delete from peers.task where id = {gone}")
    steady.advance_steadily(30)
    assert [each["task_id"] for each in steady.reclaim()] == [kept]
    assert rows(world.db, "select from peers.lease") == []


def test_what_belongs_to_an_attempt_goes_with_it(db: Connection, peer: Peer) -> None:
    """Each outcome deletes the progress and the cancel request of its task, and no other's."""
    for _ in range(4):
        submit(db)
    claims = peer.claim()
    for claim in claims:
        run(db, "select peers.progress(%s, %s, %s, 1, 2)", peer.id, *claim.pair)
        run(db, "select peers.cancel(%s)", claim.task_id)
    left = ids = [claim.task_id for claim in claims]
    for verb, claim in zip((peer.complete, peer.fail, peer.release), claims, strict=False):
        assert verb(claim) == {}
        left = left[1:]
        for table in ("cancel_request", "task_progress"):
            assert column(db, f"select task_id from peers.{table} order by 1") == left
    assert states(db, *ids) == ["completed", "cancelled", "cancelled", "running"]
    assert problems(db) == []


def test_truncate_is_refused(db: Connection) -> None:
    """TRUNCATE bypasses the triggers: PE005 names the table."""
    submit(db)
    tables = (
        "task graph dependency ready scheduled blocked lease cancel_request task_progress dead peer"
    )
    tables += " failure"
    for table in tables.split():
        sqlstate, words = refusal(db, f"truncate peers.{table}")
        assert sqlstate == "PE005", table
        assert f"peers.{table}" in words
    assert value(db, "select count(*) from peers.task") == 1


BY_HAND = {
    "task": ["update peers.task set state = 'ready'", "update peers.task set args = '{}'",
             "update peers.task set priority = 1, metadata = '{}'", "delete from peers.task",
             "insert into peers.task (kind, idempotency_key) values ('a', 'k')"
             " on conflict (idempotency_key) do update set priority = 1"],
    "dependency": ["update peers.dependency set waived = true", "delete from peers.dependency"],
    "ready": ["update peers.ready set priority = 1", "delete from peers.ready"],
    "scheduled": ["update peers.scheduled set due_at = now()", "delete from peers.scheduled"],
    "blocked": ["update peers.blocked set queue = 'q'", "delete from peers.blocked"],
    "lease": ["update peers.lease set open = 7", "delete from peers.lease"],
    "cancel_request": ["update peers.cancel_request set task_id = 7",
                       "delete from peers.cancel_request"],
    "task_progress": ["update peers.task_progress set done = 7", "delete from peers.task_progress"],
    "dead": ["update peers.dead set queue = 'q'", "delete from peers.dead"],
    "failure": ["update peers.failure set error_type = 'x'", "delete from peers.failure"],
}  # fmt: skip


@pytest.mark.parametrize("path", ["", "public", "peers", "peers, pg_catalog, pg_temp"])
def test_a_change_by_hand_is_refused(db: Connection, peer: Peer, path: str) -> None:
    """UPDATE and DELETE outside the verbs: PE005 names table and verbs, and nothing moves."""
    parent = submit(db, idempotency_key="k")
    submit(db, depends_on=[parent])
    peer.claim()
    run(db, f"set search_path = {path or chr(39) * 2}")
    for table, statements in BY_HAND.items():
        for statement in statements:
            sqlstate, words = refusal(db, statement)
            assert sqlstate == "PE005", statement
            assert f"peers.{table} by hand" in words
            assert "peers.cancel" in words
    run(db, "update peers.task set metadata = '{\"mine\": 1}'")
    assert problems(db) == []


def test_a_deliberate_repair_is_possible(db: Connection) -> None:
    """The way that the refusal names works, and check puts the rest right."""
    task_id = submit(db)
    with db.transaction():
        run(db, "set local search_path = pg_catalog, peers, pg_temp")
        run(db, "update task set state = 'blocked' where id = %s", task_id)
        run(db, "select * from peers.check(repair => true)")
    assert (state(db, task_id), problems(db)) == ("ready", [])


def test_the_guard_knows_every_column_of_a_task(db: Connection) -> None:
    """All but metadata, which is the application's own."""
    guarded = (
        "select attname::text from pg_trigger t join pg_attribute a on a.attrelid = t.tgrelid"
        " and a.attnum = any (t.tgattr) where tgname = 'refuse_change'"
        " and tgrelid = 'peers.task'::regclass order by 1"
    )
    every = (
        "select attname::text from pg_attribute where attrelid = 'peers.task'::regclass"
        " and attnum > 0 and not attisdropped and attname <> 'metadata' order by 1"
    )
    assert column(db, guarded) == column(db, every)


def test_every_file_can_be_applied_again(db: Connection, peer: Peer) -> None:
    """Reapplying the whole SQL changes nothing for tasks on their way."""
    parent = submit(db)
    child = submit(db, depends_on=[parent])
    [claim] = peer.claim()
    for file in sql_files():
        db.execute(file.read_bytes())
    assert peer.complete(claim) == {}
    assert [again.task_id for again in peer.claim()] == [child]
    assert problems(db) == []
