"""Claims that begin where the peer's last one ended: nothing is lost, and little is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.world import Claimant, Peer, World, row, run, submit, value

if TYPE_CHECKING:
    from tests.support.server import Connection

MANY = "insert into peers.task (kind, args) select %s, %s from generate_series(1, %s)"


def test_urgent_tasks_and_other_kinds_are_seen_at_once(world: World) -> None:
    """Priorities before, between and behind the remembered ones are read, and unknown kinds."""
    peer = Claimant(world.peer("a", "b", "c"))
    for priority in (50, 100):
        for _ in range(2):
            submit(world.db, priority=priority)
    assert len(peer.claim(3)) == 3
    expected = [
        submit(world.db, priority=-32768),
        submit(world.db, "c", priority=7),
        submit(world.db, priority=70),
        submit(world.db, "b", priority=80),
    ]
    last = value(world.db, "select min(id) from peers.task where state = 'ready'")
    behind = submit(world.db, priority=32767)
    assert [peer.claim(1) for _ in range(4)] == [[each] for each in expected]
    assert peer.claim(5) == [last, behind]


def test_a_peer_that_forgets_its_positions_loses_nothing(world: World) -> None:
    """Without what the last claim returned, or with positions far ahead, every task is claimed."""
    peer = Claimant(world.peer())
    tasks = [submit(world.db) for _ in range(6)]
    assert peer.claim(2) == tasks[:2]
    peer.resume = None
    assert peer.claim(2) == tasks[2:4]
    query = (
        "select row(r.peer_id, array(select row(g.kind, g.after_priority,"
        " greatest(g.after_position, 1000000), g.to_priority, g.to_position,"
        " null)::peers.claim_range"
        " from unnest(r.ranges) g), r.look_at, r.limited_kinds)::peers.claim_resume"
        " from (select (%s::peers.claim_resume).*) r"
    )
    peer.resume = value(world.db, query, peer.resume)
    assert peer.claim(2) == tasks[4:]


def test_what_another_peer_resumes_from_is_ignored(world: World) -> None:
    """A process that joins again may still have it: its kinds may be others."""
    first, second = Claimant(world.peer("b")), Claimant(world.peer("a", "b"))
    submit(world.db, "b")
    assert len(first.claim(1)) == 1
    tasks = [submit(world.db), submit(world.db, "b")]
    second.resume = first.resume
    assert second.claim(2) == tasks


def test_a_peer_does_not_remember_thousands_of_priorities(world: World) -> None:
    """With more than 1,000 it starts over, and loses nothing."""
    peer = Claimant(world.peer())
    query = "insert into peers.task (kind, priority) select 'a', n from generate_series(1, 2100) n"
    run(world.db, query)
    sizes = "select cardinality((%s::peers.claim_resume).ranges)"
    for _ in range(3):
        assert len(peer.claim(700)) == 700
        assert value(world.db, sizes, peer.resume) <= 1001


def test_a_task_that_was_locked_is_claimed_later(world: World) -> None:
    """A task that a claim has passed over lies before the remembered position, and is found."""
    peer, application = Claimant(world.peer()), world.connect()
    locked, first, second = (submit(world.db) for _ in range(3))
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", locked)
        assert peer.claim(1) == [first]
    assert peer.claim(1) == [second]
    assert peer.claim(1) == [locked]


def test_late_and_new_tasks_of_one_claim_are_in_order(world: World) -> None:
    """What a claim finds before and behind the remembered positions is sorted together."""
    peer, application = Claimant(world.peer()), world.connect()
    with application.transaction():
        late = submit(application)
        submit(world.db)
        assert len(peer.claim(1)) == 1
    urgent, new = submit(world.db, priority=1), submit(world.db)
    assert peer.claim(10) == [urgent, late, new]


def rows_read(db: Connection) -> int:
    """How many rows of the table ready this session has read and locked in this transaction."""
    rows: int = value(db, "select pg_stat_get_xact_tuples_fetched('peers.ready'::regclass)")
    return rows


def test_a_large_claim_does_not_walk_over_what_another_has_locked(world: World) -> None:
    """It begins where the other one ended, though that one has not committed."""
    first, second, third = (Claimant(world.peer()) for _ in range(3))
    run(world.db, MANY, "a", "{}", 6000)
    tasks = [each["task_id"] for each in world.db.execute("select task_id from peers.ready")]
    assert first.claim(1000) == tasks[:1000]
    assert second.claim(1000) == tasks[1000:2000]
    with first.peer.db.transaction(), second.peer.db.transaction():
        assert first.claim(1000) == tasks[2000:3000]
        with second.peer.db.transaction():
            before = rows_read(second.peer.db)
            assert second.claim(1000) == tasks[3000:4000]
            assert rows_read(second.peer.db) - before < 1500
    assert third.claim(1000) == tasks[4000:5000]


def test_urgent_tasks_are_seen_whatever_claims_share(world: World) -> None:
    """The shared place is one of one priority: tasks of a smaller one come first."""
    first, second = Claimant(world.peer()), Claimant(world.peer())
    run(world.db, MANY, "a", "{}", 1000)
    assert len(first.claim(200)) == len(second.claim(200)) == 200
    urgent = [submit(world.db, priority=priority) for priority in (99, -5)]
    assert first.claim(200)[:2] == urgent[::-1]


def look_in(peer: Claimant, span: str) -> None:
    """Set when a claim looks before the ranges, in what the peer remembers."""
    query = (
        "select row(r.peer_id, r.ranges, clock_timestamp() + %s::interval, r.limited_kinds)"
        "::peers.claim_resume"
        " from (select (%s::peers.claim_resume).*) r"
    )
    peer.resume = value(peer.peer.db, query, span, peer.resume)


def test_a_claim_looks_before_its_ranges_only_from_a_time_on(world: World) -> None:
    """Before that time a short claim does not look; after it does; later on every claim looks."""
    peer, application = Claimant(world.peer()), world.connect()
    with application.transaction():
        late = [submit(application) for _ in range(2)]
        new = [submit(world.db) for _ in range(2)]
        assert peer.claim(1) == new[:1]
    look_in(peer, "1 min")
    assert peer.claim(2) == new[1:]
    assert peer.claim(1) == []
    look_in(peer, "0")
    assert peer.claim(1) == late[:1]
    last = submit(world.db)
    look_in(peer, "-11 s")
    assert peer.claim(1) == late[1:]
    looked = "select (%s::peers.claim_resume).look_at > clock_timestamp() - interval '10 s'"
    assert value(world.db, looked, peer.resume)
    assert peer.claim(1) == [last]


def claim_and_count_calls(peer: Claimant, function: str) -> tuple[list[int], int]:
    """Claim, and return the tasks and how often the claim has called a function of the schema."""
    query = (
        "select coalesce(sum(calls), 0)::integer from pg_stat_xact_user_functions"
        " where funcname = %s"
    )
    with peer.peer.db.transaction():
        before: int = value(peer.peer.db, query, function)
        tasks = peer.claim(5)
        return tasks, value(peer.peer.db, query, function) - before


def test_an_idle_peer_claims_in_one_pass(world: World) -> None:
    """A claim that gets too little and leaves nothing lets the next one read from the start.

    One that takes longer than 5 ms does not, so a few of them may be needed.
    """
    peer = Claimant(world.peer())
    run(peer.peer.db, "set track_functions = 'all'")
    assert peer.claim(5) == []
    from_the_start = 0
    for _ in range(50):
        task = submit(world.db)
        tasks, calls = claim_and_count_calls(peer, "_all_ranges")
        assert tasks == [task]
        from_the_start += calls
    assert from_the_start > 0


def test_a_claim_that_finds_nothing_writes_nothing(world: World) -> None:
    """An empty claim assigns no transaction id, with and without positions."""
    peer = Claimant(world.peer())
    submit(world.db)
    for expected in (1, 0):
        with peer.peer.db.transaction():
            assert len(peer.claim(5)) == expected
            written = value(peer.peer.db, "select pg_current_xact_id_if_assigned() is not null")
            assert written == bool(expected)
    peer.resume = None
    with peer.peer.db.transaction():
        assert peer.claim(5) == []
        assert value(peer.peer.db, "select pg_current_xact_id_if_assigned() is null")


@pytest.mark.parametrize("wanted", [1, 7, 100])
def test_a_claim_of_many_kinds_locks_what_it_takes(world: World, wanted: int) -> None:
    """500 kinds with ten tasks each: the claim is the exact merge, and locks no other row."""
    kinds = [f"k{number}" for number in range(500)]
    peer, other = Claimant(world.peer(*kinds)), world.connect()
    run(
        world.db,
        "insert into peers.task (kind, priority)"
        " select 'k' || (n * 7919) % 500, (n * 31) % 5 from generate_series(1, 5000) n",
    )
    order = "select task_id from peers.ready order by priority, position limit %s"
    for _ in range(2):
        expected = [each["task_id"] for each in world.db.execute(order, (wanted,))]
        left = value(world.db, "select count(*) from peers.ready")
        with peer.peer.db.transaction():
            assert peer.claim(wanted) == expected
            free = "select count(*) from (select from peers.ready for update skip locked) r"
            assert value(other, free) == left - wanted


@pytest.mark.parametrize("wanted", [1, 500])
def test_a_claim_gets_past_tasks_that_an_open_transaction_has_locked(
    world: World, wanted: int
) -> None:
    """No call takes long, and the calls reach the free task behind 20,000 locked ones."""
    peer, application = Claimant(world.peer()), world.connect()
    run(world.db, MANY, "a", "{}", 20_000)
    run(peer.peer.db, "set statement_timeout = '2s'")
    with application.transaction():
        run(application, "select from peers.task for share")
        free = submit(world.db)
        assert peer.claim_all(wanted) == [free]
        assert peer.claim_all(wanted) == []
    world.until(lambda: peer.claim_all(1) != [], "a look before the remembered positions")


def test_a_queue_whose_tasks_are_all_refused_does_not_spin(db: Connection, peer: Peer) -> None:
    """A trigger that raises for every task costs a bounded call, and no call asks for another."""
    run(db, MANY, "a", "{}", 300)
    run(
        db,
        "create function refuse() returns trigger language plpgsql"
        " as $$ begin raise 'no'; end $$;"
        "create trigger refuse before update on peers.task"
        " for each row when (new.state = 'running') execute function refuse()",
    )
    claimant = Claimant(peer)
    assert claimant.claim(100) == []
    assert not claimant.more
    assert value(db, "select count(*) from peers.ready") == 300
    assert value(db, "select count(*) from peers.lease") == 0


def test_a_veto_by_a_trigger_keeps_the_task(db: Connection, peer: Peer) -> None:
    """A trigger that skips the UPDATE without an error: the task stays ready and has its row."""
    bad, good = submit(db, args={"bad": 1}), submit(db)
    run(
        db,
        "create function veto() returns trigger language plpgsql"
        " as $$ begin return null; end $$;"
        "create trigger veto before update on peers.task"
        " for each row when (new.args ? 'bad') execute function veto()",
    )
    claimant = Claimant(peer)
    assert claimant.claim(10) == [good]
    run(db, "drop trigger veto on peers.task")
    assert claimant.claim(10) == [bad]


def test_large_args_are_cut_to_what_one_answer_can_carry(db: Connection, peer: Peer) -> None:
    """40 tasks with 0.9 MB each come in several answers of less than 16 MiB, in order."""
    text = '{"x": "' + "y" * 900_000 + '"}'
    run(db, MANY, "a", text, 40)
    query = "select task_ids, octet_length(args) as size, more from peers.claim(%s, 'default', 100)"
    taken: list[int] = []
    while answer := row(db, query, peer.id):
        taken += answer["task_ids"]
        assert answer["size"] <= (16 << 20) + 1000
        if not answer["more"]:
            break
    assert taken == sorted(taken)
    assert len(taken) == 40
    assert value(db, "select count(*) from peers.lease") == 3
