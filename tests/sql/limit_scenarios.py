"""Interleavings of claims under limits, each ending in what must hold whatever the others did.

As in tests.sql.scenarios: each passes against the SQL as shipped, and fails against SQL without the
safeguard that it is for (tests.sql.test_limits).
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.world import (
    Claim,
    Peer,
    World,
    advance,
    claims_of,
    problems,
    promote,
    result,
    row,
    rows,
    run,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.server import Connection


TRIES = 5
CLAIM_SECONDS = 0.1
"""A claim looks for tasks for so long, which a busy machine may need for its plans."""


class Claimed(NamedTuple):
    """What a claim under limits brought, and what it told about the rest."""

    claims: list[Claim]
    last: dict[str, Any]
    most_running: dict[int, int]
    """By task, of the leases that have more tasks than may run at once."""
    keys: dict[int, int]
    """By task."""

    @property
    def ids(self) -> list[int]:
        """The tasks."""
        return [claim.task_id for claim in self.claims]


def claim_limited(
    peer: Peer, free: int | None = 8, wanted: int = 100, queue: str = "default",
    try_keys: Sequence[int] = (), limited_resume: str | None = None, **per_slot: int,
) -> Claimed:  # fmt: skip
    """Claim once, and again if the claim had no time to look at all tasks."""
    query = (
        "select * from peers.claim_limited(%s, %s, %s, %s, %s::jsonb, null, %s::bigint[],"
        " %s::peers.limited_resume)"
    )
    found: list[dict[str, Any]] = []
    for _ in range(TRIES):
        began = time.monotonic()
        answer = rows(
            peer.db, query, peer.id, queue, wanted, free, json.dumps(per_slot), [*try_keys],
            limited_resume,
        )  # fmt: skip
        had_time = time.monotonic() - began < CLAIM_SECONDS
        found += answer
        limited_resume = answer[-1]["limited_resume"]
        taken = sum(len(lease["task_ids"]) for lease in answer)
        if had_time or free is None or (taken and per_slot):
            break
        wanted, free = wanted - taken, free - taken
        if min(wanted, free) <= 0:
            break
    claims = [claim for lease in found for claim in claims_of(lease)]
    most = {
        claim.task_id: lease["most_running"]
        for lease in found
        if lease["most_running"]
        for claim in claims_of(lease)
    }
    keys = {claim.task_id: lease["key"] for lease in found for claim in claims_of(lease)}
    return Claimed(claims, found[-1], most, keys)


def limit(db: Connection, name: str = "l", *, kind: str | None = "a", **columns: object) -> None:
    """Insert a limit of kind `a`."""
    names = ["name", "kind", *columns]
    values = ", ".join(["%s"] * len(names))
    run(
        db,
        f"insert into peers.limit ({', '.join(names)}) values ({values})",
        name, kind, *columns.values(),
    )  # fmt: skip


def accounts(db: Connection, *each: int, **options: Any) -> list[int]:
    """Submit a task for each of these accounts."""
    return [submit(db, "a", args={"account": account}, **options) for account in each]


def finish_limited(world: World, *kinds: str) -> int:
    """Completes what there is to claim until there is nothing; how many."""
    peer, done = world.peer(*(kinds or ("a",))), 0
    while claims := claim_limited(peer).claims:
        assert peer.complete(*claims) == {}
        done += len(claims)
    return done


# ------------------------------------------------------------------------------- claim and claim


def two_claims_share_a_key(world: World) -> None:
    """A claim that has not committed holds the key: another one does not wait, and is told so."""
    limit(world.db, max_running=3)
    tasks = [submit(world.db) for _ in range(6)]
    one, two = world.peer(), world.peer()
    with one.db.transaction():
        assert claim_limited(one, 2).ids == tasks[:2]
        busy = claim_limited(two, 2)
        assert busy.ids == []
        assert busy.last["waits"] == "busy"
    again = claim_limited(two, 2)
    assert again.ids == tasks[2:3]
    assert claim_limited(two, 2).last["waits"] == "full"
    assert problems(world.db) == []


def a_claim_moves_tasks_that_another_one_wants(world: World) -> None:
    """They are hidden from it until the first one commits: it is told to call again soon."""
    limit(world.db, max_running=3)
    [*tasks] = [submit(world.db, scheduled_at="2100-01-01 00:00+00") for _ in range(3)]
    advance(world.db, "100 years")
    one, two = world.peer(), world.peer()
    assert value(world.db, "select peers.promote()") == 3
    with one.db.transaction():
        assert claim_limited(one, 1).ids == tasks[:1]
        hidden = claim_limited(two, 2)
        assert hidden.ids == []
        assert hidden.last["waits"] == "more"
    assert claim_limited(two, 2).ids == tasks[1:]


def a_claim_counts_again_after_the_lock(world: World) -> None:
    """What another claim took between the look and the lock is counted."""
    limit(world.db, max_running=2)
    for _ in range(6):
        submit(world.db)
    run(
        world.db,
        "alter function peers._try_lock_keys(bigint[]) rename to _try_lock_keys_now;"
        "create function peers._try_lock_keys(keys bigint[]) returns boolean language plpgsql"
        " set search_path = pg_catalog, peers, pg_temp as $$ begin"
        " perform pg_advisory_xact_lock_shared(1); return peers._try_lock_keys_now(keys);"
        " end $$",
    )
    one, two, holder = world.peer(), world.peer(), world.connect()
    with holder.transaction():
        run(holder, "select pg_advisory_xact_lock_shared(1)")
        with one.db.transaction():
            assert len(claim_limited(one, 2).ids) == 2
            run(world.db, "select pg_advisory_lock(2)")
            blocker = world.connect()
            late = world.background(run, blocker, "select pg_advisory_lock(1)")
            world.until_waiting(blocker)  # from now on, who wants the lock waits behind it
            query = "select token, waits from peers.claim_limited(%s, 'default', 2, 2)"
            work = world.background(rows, two.db, query, two.id)
            world.until_waiting(two.db)
    result(late)
    run(blocker, "select pg_advisory_unlock(1)")
    assert result(work) == [{"token": None, "waits": "more"}], "other keys may have room"
    assert value(world.db, "select sum(open) from peers.lease") == 2


def keys_do_not_stand_in_each_others_way(world: World) -> None:
    """A full key, and one that another claim has locked, leave the others free."""
    limit(world.db, key="account", max_running=1)
    first = accounts(world.db, 1, 1, 2, 3)
    one, two = world.peer(), world.peer()
    assert claim_limited(one, 1).ids == first[:1]
    with one.db.transaction():
        assert len(claim_limited(one, 1).ids) == 1
        found = claim_limited(two, 3)
        assert len(found.ids) == 1
        assert found.last["waits"] == "busy"
    assert first[1] not in found.ids


def _claim_once(peer: Peer, free: int) -> tuple[list[int], str | None]:
    """Claim once, even if the claim has no time for all tasks; its tasks, and what waits."""
    query = "select * from peers.claim_limited(%s, 'default', 100, %s)"
    found = rows(peer.db, query, peer.id, free)
    return [task for lease in found for task in lease["task_ids"]], found[-1]["waits"]


def _slow(db: Connection, event: str, condition: str, body: str) -> None:
    """Let each row of this event take longer than a claim looks for tasks."""
    run(
        db,
        "create function slow() returns trigger language plpgsql as $$ begin"
        f" perform pg_sleep({CLAIM_SECONDS * 1.2}); {body} return coalesce(new, old); end $$;"
        f"create trigger slow before {event} for each row when ({condition})"
        " execute function slow()",
    )


def a_claim_without_time_has_not_tried_each_task(world: World) -> None:
    """A slow trigger refuses one of them: those behind it are more, although a key is full."""
    limit(world.db, key="account", max_running=3)
    accounts(world.db, *[2] * 4)
    peer = world.peer()
    assert len(claim_limited(peer).ids) == 3
    first, bad, last = accounts(world.db, 1, 1, 1)
    _slow(
        world.db, "update on peers.task", "new.state = 'running'",
        f"if new.id = {bad} then raise 'not this one'; end if;",
    )  # fmt: skip
    assert _claim_once(peer, 3) == ([first], "more")
    run(world.db, "drop trigger slow on peers.task")
    assert claim_limited(peer).ids == [bad, last]


def a_claim_without_time_has_only_dropped_rows(world: World) -> None:
    """A row whose task has another key came first: the task behind it is more, not full."""
    limit(world.db, key="account", max_running=1)
    accounts(world.db, 2, 2)
    peer = world.peer()
    assert len(claim_limited(peer).ids) == 1
    first, second = accounts(world.db, 1, 1)
    with world.db.transaction():
        run(world.db, "set local session_replication_role = replica")
        run(world.db, "update peers.task set args = '{\"account\": 3}' where id = %s", first)
    _slow(world.db, "delete on peers.ready_limited", "true", "")
    assert _claim_once(peer, 2) == ([], "more")
    run(world.db, "drop trigger slow on peers.ready_limited")
    assert claim_limited(peer).ids == [second]


def keys_that_share_a_limit_hide_a_free_one(world: World) -> None:
    """As many keys as slots seem free, but one task fills all of them: there are more."""
    limit(world.db, "region", key="region", max_running=1)
    limit(world.db, "account", key="account", max_running=1)

    def task(region: str, account: int, priority: int) -> int:
        return submit(world.db, "a", args={"region": region, "account": account}, priority=priority)

    running, _full = task("C", 9, 100), task("C", 9, 100)
    peer = world.peer()
    assert claim_limited(peer).ids == [running]
    first, _second, free = task("A", 1, 100), task("A", 2, 100), task("B", 3, 200)
    assert _claim_once(peer, 2) == ([first], "more")
    assert _claim_once(peer, 1) == ([free], "full")


def a_key_whose_task_has_ended_is_tried_first(world: World) -> None:
    """Among so many full keys that a claim looks at a third of them only."""
    many = 1000
    limit(world.db, key="account", max_running=1)
    insert = (
        "insert into peers.task (kind, args) select 'a', jsonb_build_object('account', n)"
        " from generate_series(1, %s) n"
    )
    run(world.db, insert, many)
    peer = world.peer()
    claims: dict[int, Claim] = {}
    keys: dict[int, int] = {}
    while len(claims) < many:
        found = claim_limited(peer, many, many)
        claims.update({claim.task_id: claim for claim in found.claims})
        keys.update(found.keys)
    run(world.db, insert, many)
    for task in list(claims)[:6]:
        assert peer.complete(claims[task]) == {}
        after = claim_limited(peer, 1, try_keys=[keys[task]]).claims
        assert [claim.args for claim in after] == [claims[task].args]
    assert claim_limited(peer, 1, try_keys=[*keys.values()][:2]).ids == []
    assert problems(world.db) == []


def a_task_is_under_all_of_its_limits(world: World) -> None:
    """Two for each account, three of the kind, four of the queue."""
    limit(world.db, "account", key="account", max_running=2)
    limit(world.db, "kind", max_running=3)
    limit(world.db, "queue", kind=None, queue="default", max_running=4)
    accounts(world.db, 1, 1, 1, 2, 2, 3)
    for _ in range(3):
        submit(world.db, "b", args={"account": 1})
    peer = world.peer("a", "b")
    taken = claim_limited(peer, 10)
    of_kind = [claim for claim in taken.claims if claim.kind == "a"]
    assert len(taken.claims) == 4
    assert len(of_kind) <= 3
    assert max([claim.args["account"] for claim in of_kind].count(n) for n in (1, 2, 3)) <= 2
    assert claim_limited(peer, 10).ids == []
    assert peer.complete(*taken.claims) == {}
    assert finish_limited(world, "a", "b") == 5


# -------------------------------------------------------------------- claim and other operations


def a_slot_is_free_once_its_task_is_recorded(world: World) -> None:
    """For the same transaction at once, for others with its commit; nobody waits for it."""
    limit(world.db, max_running=1)
    tasks = [submit(world.db) for _ in range(3)]
    one, two = world.peer(), world.peer()
    [claim] = claim_limited(one).claims
    with one.db.transaction():
        assert one.complete(claim) == {}
        assert claim_limited(two).last["waits"] == "full"
    [second] = claim_limited(two).claims
    assert second.task_id == tasks[1]
    with two.db.transaction():
        assert two.complete(second) == {}
        assert claim_limited(two).ids == tasks[2:]


def a_reclaimed_task_frees_its_slot(world: World) -> None:
    """Not before the reclaim has committed, and then for one task only."""
    limit(world.db, max_running=1)
    tasks = [submit(world.db) for _ in range(2)]
    lost, other = world.peer(), world.peer()
    assert claim_limited(lost).ids == tasks[:1]
    for _ in range(4):
        advance(world.db, "10 s")
        other.heartbeat()
    with other.db.transaction():
        assert [found["task_id"] for found in other.reclaim()] == tasks[:1]
        watcher = world.peer()
        assert claim_limited(watcher).ids == []
    assert claim_limited(watcher).ids == tasks[1:]
    assert claim_limited(other).ids == []
    assert problems(world.db) == []


def tasks_that_run_already_count_for_a_new_limit(world: World) -> None:
    """A limit on a kind with running and waiting tasks holds as those end."""
    tasks = accounts(world.db, 1, 1, 1, 1, 1, 2)
    peer = world.peer()
    claims = peer.claim(3)
    limit(world.db, key="account", max_running=2)
    found = claim_limited(peer, 3)
    assert found.ids == tasks[5:], "the other account is free"
    said = value(world.db, "select peers.explain(%s)", tasks[3])
    assert "3 of 2 are running (claimed before this limit held for them), none is ahead." in said
    assert peer.complete(*claims[:2]) == {}
    assert claim_limited(peer, 3).ids == tasks[3:4]
    assert claim_limited(peer, 3).ids == []


def a_limit_changes_while_tasks_run(world: World) -> None:
    """Raised or lowered, it holds for the next claim after the commit."""
    limit(world.db, max_running=2)
    for _ in range(8):
        submit(world.db)
    peer, operator = world.peer(), world.connect()
    claims = claim_limited(peer).claims
    assert len(claims) == 2
    with operator.transaction():
        run(operator, "update peers.limit set max_running = 4")
        assert claim_limited(peer).ids == []
    claims += claim_limited(peer).claims
    assert len(claims) == 4
    run(world.db, "update peers.limit set max_running = 1")
    assert peer.complete(*claims[:3]) == {}
    assert claim_limited(peer).ids == []
    assert peer.complete(claims[3]) == {}
    assert len(claim_limited(peer).ids) == 1


def a_backlog_is_moved_in_batches(world: World) -> None:
    """Added, given another key, removed: no task is lost, and none runs outside of its limit."""
    accounts(world.db, *[n % 5 for n in range(40)])
    limit(world.db, key="account", max_running=1)
    one, two = world.peer(), world.peer()
    with one.db.transaction():
        assert value(one.db, "select peers.place_limited(15)") == 15
        assert value(two.db, "select peers.place_limited(100)") == 25, "both work on it"
    assert value(world.db, "select peers.place_limited()") == 0
    assert problems(world.db) == []
    assert len(claim_limited(one).ids) == 5
    run(world.db, "update peers.limit set key = null, max_running = 7")
    assert claim_limited(two).ids == [], "until they are moved"
    assert value(world.db, "select peers.place_limited(30)") == 30
    assert value(world.db, "select peers.place_limited(30)") == 5
    assert len(claim_limited(two).ids) == 2, "five are running"
    run(world.db, "delete from peers.limit")
    assert two.claim() == []
    while value(world.db, "select peers.place_limited(10)"):
        pass
    assert len(two.claim()) == 33
    assert problems(world.db) == []


def a_changed_task_waits_under_its_new_key(world: World) -> None:
    """Its old row is stale, and its new one is found."""
    limit(world.db, key="account", max_running=1)
    first, second = accounts(world.db, 1, 1)
    peer = world.peer()
    assert claim_limited(peer).ids == [first]
    run(world.db, "select peers.change(%s, args => '{\"account\": 2}')", second)
    assert problems(world.db) == []
    assert claim_limited(peer).ids == [second]


def a_replaced_task_waits_under_its_new_key(world: World) -> None:
    """A submission that replaces the args of a waiting task moves it to its new key."""
    limit(world.db, key="account", max_running=1)
    [first] = accounts(world.db, 1, unique_key="u")
    [second] = accounts(world.db, 1)
    peer = world.peer()
    replace = (
        "select peers.submit('a', '{\"account\": 2}', unique_key => 'u', on_duplicate => 'replace')"
    )
    run(world.db, replace)
    assert problems(world.db) == []
    assert sorted(claim_limited(peer).ids) == [first, second]


def a_task_changes_while_its_key_is_claimed(world: World) -> None:
    """A claim never starts a task under a key that it no longer has."""
    limit(world.db, key="account", max_running=1)
    _, second, third = accounts(world.db, 1, 2, 2)
    peer = world.peer()
    claims = {claim.task_id: claim for claim in claim_limited(peer, 2).claims}
    with world.db.transaction():
        run(world.db, "set local search_path = pg_catalog, peers, pg_temp")
        run(world.db, "update peers.task set args = '{\"account\": 1}' where id = %s", third)
    assert peer.complete(claims[second]) == {}
    assert claim_limited(peer).ids == [], "account 1 is full"


def every_way_to_become_ready_ends_under_the_limit(world: World) -> None:
    """Retry, release, promotion, a parent's end, a new priority, resumed graphs and queues."""
    limit(world.db, key="account", max_running=2)
    peer, args = world.peer(), {"account": 1}
    graph = int(value(world.db, "insert into peers.graph (name) values ('g') returning id"))
    parent = submit(world.db, args=args)
    child = submit(world.db, args=args, depends_on=[parent])
    later = submit(world.db, args=args, scheduled_at="2100-01-01")
    run(world.db, "select peers.change(%s, scheduled_at => now() + interval '5 s')", later)
    paused = submit(world.db, args=args, graph_id=graph)
    urgent = submit(world.db, args=args)
    run(world.db, "select peers.change(%s, priority => 1)", urgent)
    run(world.db, "select peers.pause_graph(%s)", graph)
    claims = {claim.task_id: claim for claim in claim_limited(peer).claims}
    assert set(claims) == {urgent, parent}
    assert peer.release(claims[urgent]) == {}
    [again] = claim_limited(peer).claims
    assert again.task_id == urgent
    assert peer.fail(claims[parent], retry_in=0) == {}
    assert problems(world.db) == []
    run(world.db, "select peers.pause('default')")
    assert claim_limited(peer).ids == []
    run(world.db, "select peers.resume('default')")
    run(world.db, "select peers.resume_graph(%s)", graph)
    advance(world.db, "10 s")
    peer.heartbeat()
    promote(world.db)
    assert peer.complete(again) == {}
    assert sorted(_work_off(peer, most=2)) == sorted([parent, child, later, paused])
    assert problems(world.db) == []


def _work_off(peer: Peer, most: int) -> list[int]:
    """Claim and complete until there is nothing; never get more at once. Return the tasks."""
    done: list[int] = []
    while claims := claim_limited(peer).claims:
        assert len(claims) <= most
        done += [claim.task_id for claim in claims]
        assert peer.complete(*claims) == {}
    return done


def cancelled_tasks_leave_no_gap(world: World) -> None:
    """Their rows are stale: the claim goes on behind them, however many there are."""
    limit(world.db, max_running=1)
    tasks = [submit(world.db) for _ in range(350)]
    for task in tasks[:340]:
        run(world.db, "select peers.cancel(%s)", task)
    peer = world.peer()
    while not (found := claim_limited(peer)).ids and found.last["waits"] == "more":
        pass
    assert found.ids == tasks[340:341]
    assert problems(world.db) == []


def the_more_urgent_go_first(world: World) -> None:
    """Limited or not: by priority, then by age."""
    limit(world.db, max_running=10)
    later = [submit(world.db, "a", priority=50) for _ in range(2)]
    plain = [submit(world.db, "b", priority=20) for _ in range(3)]
    urgent = [submit(world.db, "a", priority=10) for _ in range(2)]
    peer = world.peer("a", "b")
    first = claim_limited(peer, 4, 4)
    assert sorted(first.ids) == sorted(urgent + plain[:2])
    assert first.last["waits"] == "slots"
    second = claim_limited(peer, 2, 2)
    assert sorted(second.ids) == sorted([plain[2], later[0]])
    assert claim_limited(peer, 0, 5).last["waits"] == "slots"


def limited_tasks_are_not_claimed_in_advance(world: World) -> None:
    """Only for free slots; short ones come in a lease that runs as few at once as may."""
    limit(world.db, max_running=3)
    tasks = [submit(world.db) for _ in range(30)]
    peer, other = world.peer(), world.peer()
    assert claim_limited(peer, 1, 100).ids == tasks[:1]
    found = claim_limited(peer, 8, 100, a=5)
    assert found.ids == tasks[1:11]
    assert set(found.most_running.values()) == {2}
    assert claim_limited(other, 8, a=5).last["waits"] == "full"
    run(world.db, "update peers.limit set max_running = 4")
    assert claim_limited(other, 8).ids == tasks[11:12]
    run(world.db, "update peers.limit set max_running = 3")
    assert peer.complete(*found.claims[:9]) == {}
    assert claim_limited(other, 8).ids == [], "one of the ten is left"


def a_lost_claim_is_not_counted(world: World) -> None:
    """A transaction that is rolled back leaves neither a lease nor a lock."""
    limit(world.db, max_running=1)
    task = submit(world.db)
    one, two = world.peer(), world.peer()
    run(one.db, "begin")
    assert claim_limited(one).ids == [task]
    one.db.close()
    world.until(lambda: claim_limited(two).ids == [task], "the end of the session")


def weights_count(world: World) -> None:
    """The sum of what runs stays below max_running; a heavy task is not overtaken."""
    limit(world.db, max_running=10, weight="tokens")
    weights = [4, 5, 3, 1, 99]
    tasks = [submit(world.db, args={"tokens": weight}) for weight in weights]
    peer = world.peer()
    first = claim_limited(peer)
    assert first.ids == tasks[:2]
    assert claim_limited(peer).ids == []
    assert peer.complete(first.claims[0]) == {}
    second = claim_limited(peer)
    assert second.ids == tasks[2:4]
    assert peer.complete(first.claims[1], *second.claims) == {}
    assert claim_limited(peer).ids == tasks[4:], "it may run alone"


def rates_hold(world: World) -> None:
    """So many starts in any period; the answer says when the next one may be."""
    limit(world.db, key="account", starts=3, per="10 s")
    accounts(world.db, *[1] * 5, *[2] * 2)
    peer = world.peer()
    first = claim_limited(peer)
    assert sorted(claim.args["account"] for claim in first.claims) == [1, 1, 1, 2, 2]
    full = claim_limited(peer)
    assert full.ids == []
    assert 8 < full.last["opens_in"] < 10.2
    assert peer.complete(*first.claims) == {}
    assert claim_limited(peer).ids == []
    advance(world.db, "10.2 s")
    peer.heartbeat()
    assert len(claim_limited(peer).ids) == 2


def a_long_window_is_folded(world: World) -> None:
    """Above 1,000 rows of a key they are merged, and no window has more starts for that."""
    most, per, step = 1200, 1000, 7
    limit(world.db, starts=most, per=f"{per} s")
    run(world.db, "insert into peers.task (kind) select 'a' from generate_series(1, 4000)")
    peer = world.peer(lease="1 h")
    key = value(world.db, "select distinct limit_keys[1] from peers.ready_limited")
    began = value(world.db, "select extract(epoch from peers.now())::float8")
    starts = [(began - second / 2, 1) for second in range(1150)]
    run(
        world.db,
        "insert into peers.limit_start (limit_key, started_at, tasks)"
        " select %s, to_timestamp(s), 1 from unnest(%s::float8[]) s",
        key, [at for at, _ in starts],
    )  # fmt: skip
    for _ in range(1, per + 200, step):
        taken = claim_limited(peer, 1000, 1000).ids
        now = value(world.db, "select extract(epoch from peers.now())::float8")
        starts.append((now, len(taken)))
        assert value(world.db, "select count(*) from peers.limit_start") < 500
        advance(world.db, f"{step} s")
        peer.heartbeat()
    for end, _ in starts:
        assert sum(n for at, n in starts if end - per < at <= end) <= most
    late = [n for at, n in starts if began + per / 2 < at]
    assert sum(late) > most / 2, "starts leave the window at most a hundredth of it too late"


def a_shut_limit_opens_again(world: World) -> None:
    """No task starts before, and the answer says when to ask again."""
    limit(world.db, max_running=2)
    submit(world.db)
    run(world.db, "update peers.limit set shut_until = now() + interval '20 s'")
    peer = world.peer()
    shut = claim_limited(peer)
    assert shut.ids == []
    assert 15 < shut.last["opens_in"] <= 20
    advance(world.db, "20 s")
    peer.heartbeat()
    assert len(claim_limited(peer).ids) == 1


def a_cooldown_shuts_the_limit_of_its_name(world: World) -> None:
    """No task under it starts before the end; a limit that learns starts again with half."""
    limit(world.db, "stripe", max_running=8, learns=True)
    for _ in range(20):
        submit(world.db)
    peer = world.peer()
    start = "select peers.start_cooldown('stripe', '30 s', 'HTTP 429')"
    assert value(world.db, start).total_seconds() == 30
    run(world.db, start)  # others of the eight were refused, too
    left = value(world.db, "select peers.cooldown_left('stripe')").total_seconds()
    assert 20 < left <= 30
    assert claim_limited(peer).ids == []
    peer.advance_steadily(31)
    first = claim_limited(peer, 20)
    assert len(first.ids) == 4
    peer.advance_steadily(60)
    assert len(claim_limited(peer, 20).ids) == 1, "a minute later it may run one more"
    peer.advance_steadily(60 * 4)
    assert len(claim_limited(peer, 20).ids) == 3, "and no more than max_running"
    run(world.db, start)
    assert value(world.db, "select peers.end_cooldown('stripe')") is True
    assert value(world.db, "select peers.cooldown_left('stripe')").total_seconds() == 0
    assert value(world.db, "select count(*) from peers.cooldown") == 0


def explain_names_the_limit(world: World) -> None:
    """Which one, for which key, what runs, and what is ahead."""
    limit(world.db, "stripe", key="account", max_running=2)
    tasks = accounts(world.db, 7, 7, 7, 7, 8)
    peer = world.peer()
    claim_limited(peer)
    assert value(world.db, "select peers.explain(%s)", tasks[3]) == (
        f'Ready, but limit "stripe" is full for account 7: 2 of 2 are running (tasks {tasks[0]}, '
        f"{tasks[1]}), 1 is ahead."
    )
    run(
        world.db,
        "update peers.limit set shut_until = '2100-01-01 00:00+00', shut_because = 'HTTP 429'",
    )
    said = value(world.db, "select peers.explain(%s)", tasks[3])
    assert 'limit "stripe" is shut until 2100-01-01' in said
    assert "(HTTP 429)" in said
    run(world.db, "update peers.limit set shut_until = 'infinity'")
    said = value(world.db, "select peers.explain(%s)", tasks[3])
    assert "is shut until an operator opens it (HTTP 429)" in said
    shown = row(world.db, "select running, waiting from peers.limit_status")
    assert shown == {"running": 3, "waiting": 2}


def explain_names_who_holds_the_lock_of_a_key(world: World) -> None:
    """A session that is no claim: who it is, and how to end it. A claim is not named."""
    limit(world.db, "stripe", key="account", max_running=5)
    task, other, third = accounts(world.db, 7, 8, 8)
    peer, application = world.peer(), world.connect()
    run(application, "set application_name = 'nightly export'")
    run(
        application,
        "select pg_advisory_lock(1886152051, (limit_keys[1] >> 32)::integer)"
        " from peers.ready_limited where task_id = %s",
        task,
    )
    with peer.db.transaction():
        assert claim_limited(peer, 1).ids == [other]
        assert value(world.db, "select peers.explain(%s)", task) == (
            f'Ready, but limit "stripe" is locked for account 7 by session '
            f"{application.info.backend_pid} (nightly export), which is not claiming: no task of"
            " this key starts until it ends, or releases its advisory lock. SELECT "
            f"pg_terminate_backend({application.info.backend_pid}) ends it."
        )
        assert "is locked" not in value(world.db, "select peers.explain(%s)", third)
    run(application, "select pg_advisory_unlock_all()")
    assert "is locked" not in value(world.db, "select peers.explain(%s)", task)
    assert sorted(claim_limited(peer, 3).ids) == [task, third]


def explain_names_the_limits_that_order_a_task(world: World) -> None:
    """Which ones, for which keys, although each has room."""
    limit(world.db, "stripe", key="account", max_running=5)
    limit(world.db, "all", kind=None, queue="default", max_running=9)
    tasks = accounts(world.db, 7, 7, 8)
    world.peer()
    assert value(world.db, "select peers.explain(%s)", tasks[1]) == (
        'Ready, but 1 is ahead under limit "all" and limit "stripe" for account 7.'
    )


def what_keys_used_is_merged(world: World) -> None:
    """Many leases of a key leave one row after a while, which counts as much as they did."""
    limit(world.db, key="account", max_running=100, fair=True)
    accounts(world.db, *[1] * 30)
    peer = world.peer()
    for _ in range(30):
        [claim] = claim_limited(peer, 1).claims
        advance(world.db, "5 s")
        peer.heartbeat()
        assert peer.complete(claim) == {}
    used = (
        "select sum(peers._used_lately(k, peers.now())) from"
        " (select distinct limit_key as k from peers.limit_use) u"
    )
    before = value(world.db, used)
    assert value(world.db, "select peers.place_limited()") == 0
    assert value(world.db, "select count(*) from peers.limit_use") == 1
    assert abs(value(world.db, used) - before) < before / 100


def keys_take_turns_by_use(world: World) -> None:
    """The key with the fewest running tasks is next; then the one that was served least."""
    limit(world.db, key="account", max_running=100, fair=True)
    peer = world.peer()
    claim_limited(peer)  # the first claim of a session takes long
    accounts(world.db, *[1] * 20)
    accounts(world.db, 2, 2, 2)
    first = claim_limited(peer, 4)
    assert sorted(claim.args["account"] for claim in first.claims) == [1, 1, 2, 2]
    advance(world.db, "10 s")
    peer.heartbeat()
    assert peer.complete(*[c for c in first.claims if c.args["account"] == 1]) == {}
    assert peer.complete(*[c for c in first.claims if c.args["account"] == 2]) == {}
    accounts(world.db, 3)
    [third] = claim_limited(peer, 1).claims
    assert third.args["account"] == 3, "it was never served"
