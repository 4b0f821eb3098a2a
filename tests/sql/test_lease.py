"""Leases: heartbeats keep them, silence loses them, and giving one back costs no attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from tests.support.world import (
    Peer,
    World,
    advance,
    column,
    problems,
    promote,
    row,
    rows,
    run,
    state,
    states,
    submit,
    unknown_token,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection


def attempt(db: Connection, task_id: int) -> int:
    """Which try a task is at."""
    count: int = value(db, "select attempt from peers.task where id = %s", task_id)
    return count


def test_a_heartbeat_renews_one_row_and_answers_the_contract(db: Connection, peer: Peer) -> None:
    """However many tasks a peer holds, a heartbeat writes its own row only."""
    for _ in range(20):
        submit(db)
    peer.claim()
    before = column(db, "select xmin::text from peers.lease")
    advance(db, "5 s")
    answer = peer.heartbeat()
    assert (answer["contract_version"], answer["alive"]) == (
        value(db, "select peers.contract_version()"),
        True,
    )
    assert answer["cancelled_tasks"] == []
    assert column(db, "select xmin::text from peers.lease") == before


def test_a_heartbeat_of_an_unknown_peer_says_so(db: Connection) -> None:
    """A peer that is not there is told that it is not alive."""
    assert Peer(db, unknown_token()).heartbeat()["alive"] is False


def test_a_steady_peer_reclaims_what_a_silent_one_held(world: World) -> None:
    """A lost attempt is a failure that names peer and host, counts, and runs again at once."""
    task_id = submit(world.db)
    silent, steady = world.peer(host="host-silent"), world.peer(host="host-steady")
    [claim] = silent.claim()
    steady.advance_steadily(30)
    [reclaimed] = steady.reclaim()
    assert reclaimed == {
        "task_id": task_id,
        "attempt": 1,
        "token": claim.token,
        "lost_peer_id": silent.id,
        "host": "host-silent",
        "queue": "default",
        "kind": "a",
        "outcome": "retried",
    }
    failure = row(world.db, "select * from peers.failure")
    assert (failure["error_type"], failure["attempt"]) == ("lost", 1)
    assert (failure["peer_id"], failure["host"]) == (silent.id, "host-silent")
    assert str(silent.id) in failure["error_message"]
    assert "host-silent" in failure["error_message"]
    assert (failure["token"], failure["task_id"]) == (claim.token, task_id)
    assert failure["retry_at"] is not None
    [again] = steady.claim()
    assert (again.task_id, again.attempt) == (task_id, 2)
    assert steady.reclaim() == []
    assert problems(world.db) == []


def test_a_lost_last_attempt_is_a_dead_letter(world: World) -> None:
    """A task that kills its peers does not do so for ever."""
    task_id = submit(world.db, max_attempts=2)
    steady = world.peer("other")
    for number in (1, 2):
        victim = world.peer(host=f"victim-{number}")
        assert len(victim.claim()) == 1
        steady.advance_steadily(40)
        assert len(steady.reclaim()) == 1
    assert state(world.db, task_id) == "dead"
    letter = row(world.db, "select * from peers.dead_letter")
    assert (letter["error_type"], letter["host"], letter["attempts"]) == ("lost", "victim-2", 2)
    assert [each["host"] for each in letter["failures"]] == ["victim-1", "victim-2"]


def test_a_lost_peer_is_told_and_may_do_nothing_more(world: World) -> None:
    """After its leases were taken a peer is dead for good: no heartbeat, no claim, no outcome."""
    submit(world.db)
    lost, steady = world.peer(), world.peer()
    [claim] = lost.claim()
    steady.advance_steadily(30)
    steady.reclaim()
    assert lost.heartbeat()["alive"] is False
    assert lost.complete(claim) == {claim.pair: "stale"}
    assert lost.fail(claim) == {claim.pair: "stale"}
    assert lost.release(claim) == {claim.pair: "stale"}
    with pytest.raises(psycopg.DatabaseError) as refused:
        lost.claim()
    assert refused.value.sqlstate == "PE010"
    assert lost.reclaim() == []


def test_a_heartbeat_in_time_keeps_a_lease_however_long(world: World) -> None:
    """Rescue goes by the peer's silence, never by the age of a task."""
    submit(world.db)
    worker, steady = world.peer(), world.peer("other")
    [claim] = worker.claim()
    for _ in range(20):
        steady.advance_steadily(20)
        worker.heartbeat()
        assert steady.reclaim() == []
    assert worker.complete(claim) == {}


def test_reclaim_takes_at_most_what_it_is_asked_for(world: World) -> None:
    """A huge loss is worked off in bounded steps."""
    for _ in range(5):
        submit(world.db)
    lost, steady = world.peer(), world.peer("other")
    lost.claim()
    steady.advance_steadily(30)
    assert [len(steady.reclaim(2)) for _ in range(4)] == [2, 2, 1, 0]


def test_two_peers_that_reclaim_at_once_take_each_task_once(world: World) -> None:
    """Every lost attempt is recorded exactly once."""
    for _ in range(30):
        submit(world.db)
    lost, *steady = (world.peer(*kinds) for kinds in [("a",), ("x",), ("x",), ("x",)])
    lost.claim()
    for _ in range(3):
        advance(world.db, "10 s")
        for each in steady:
            each.heartbeat()
    work = [world.background(each.reclaim) for each in steady]
    taken = [each["task_id"] for done in work for each in done.result(60)]
    taken += [each["task_id"] for each in steady[0].reclaim()]
    assert (len(taken), len(set(taken))) == (30, 30)
    assert value(world.db, "select count(*) from peers.failure") == 30


def test_a_locked_task_is_reclaimed_later(world: World) -> None:
    """Reclaim never waits for an application; what is locked is left for the next call."""
    tasks = [submit(world.db) for _ in range(2)]
    lost, steady, application = world.peer(), world.peer("other"), world.connect()
    lost.claim()
    steady.advance_steadily(30)
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", tasks[0])
        assert [each["task_id"] for each in steady.reclaim()] == [tasks[1]]
    assert [each["task_id"] for each in steady.reclaim()] == [tasks[0]]


def test_locked_leases_do_not_hide_free_ones(world: World) -> None:
    """However many lost leases an application has locked, the limit counts those that are free."""
    tasks = [submit(world.db) for _ in range(23)]
    lost, steady, application = world.peer(), world.peer("other"), world.connect()
    lost.claim()
    steady.advance_steadily(30)
    with application.transaction():
        run(application, "select from peers.task where id <= %s for update", tasks[19])
        assert [each["task_id"] for each in steady.reclaim(2)] == tasks[20:22]
        assert [each["task_id"] for each in steady.reclaim(2)] == tasks[22:]
    assert len(steady.reclaim()) == 20


def test_locked_descendants_do_not_hide_free_leases(world: World) -> None:
    """Lost tasks whose outcome would have to wait are skipped; those behind them are taken."""
    dying = [submit(world.db, max_attempts=1) for _ in range(6)]
    child = submit(world.db, "c", depends_on=dying, on_parent_failure="cancel")
    free = [submit(world.db) for _ in range(2)]
    lost, steady, application = world.peer(), world.peer("other"), world.connect()
    lost.claim()
    steady.advance_steadily(30)
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", child)
        assert [each["task_id"] for each in steady.reclaim(3)] == free
    assert [each["task_id"] for each in steady.reclaim()] == dying
    assert state(world.db, child) == "cancelled"
    assert problems(world.db) == []


RAISE_FOR_ONE = """
    create schema app;
    create function app.object() returns trigger language plpgsql as $$
    begin
        raise exception 'the application objects';
    end
    $$;
    create trigger object before update on peers.task
        for each row when (old.metadata ? 'odd') execute function app.object();
"""


@pytest.mark.parametrize("verb", ["reclaim", "leave"])
def test_a_trigger_that_raises_keeps_only_its_own_task(world: World, verb: str) -> None:
    """Where an application's trigger refuses one task, all others are taken or given back."""
    odd, *others = (submit(world.db) for _ in range(4))
    lost, steady = world.peer(), world.peer("other")
    lost.claim()
    steady.advance_steadily(20)
    lost.heartbeat()
    run(world.db, "update peers.task set metadata = '{\"odd\": 1}' where id = %s", odd)
    run(world.db, RAISE_FOR_ONE)
    if verb == "leave":
        assert lost.leave() == 3
    steady.advance_steadily(30)
    steady.reclaim()
    assert states(world.db, odd, *others) == ["running", "ready", "ready", "ready"]
    run(world.db, "drop trigger object on peers.task")
    assert [each["task_id"] for each in steady.reclaim()] == [odd]
    assert problems(world.db) == []


def test_a_trigger_that_raises_keeps_only_its_own_task_scheduled(db: Connection) -> None:
    """Where an application's trigger refuses one task that is due, the others become ready."""
    due = [
        value(db, "select peers.submit('a', scheduled_at => now() + interval '1 s')")
        for _ in range(3)
    ]
    run(db, "update peers.task set metadata = '{\"odd\": 1}' where id = %s", due[0])
    run(db, RAISE_FOR_ONE)
    advance(db, "2 s")
    assert promote(db) == 2
    assert states(db, *due) == ["scheduled", "ready", "ready"]
    assert problems(db) == []
    run(db, "drop trigger object on peers.task")
    assert promote(db) == 1


@pytest.mark.parametrize("back", ["60 s", "1 h"])
def test_a_clock_that_is_set_back_delays_no_takeover(world: World, back: str) -> None:
    """However far the clock goes back, a silent peer is lost about one lease later; no other is."""
    task_id = submit(world.db)
    silent, alive, steady = world.peer(), world.peer(), world.peer("other")
    silent.claim()
    kept = submit(world.db)
    alive.claim()
    steady.advance_steadily(10)
    alive.heartbeat()
    advance(world.db, f"-{back}")
    taken = []
    for _ in range(7):  # a lease to be steady again, a lease until the silent one is lost
        advance(world.db, "10 s")
        steady.heartbeat()
        alive.heartbeat()
        taken += [each["task_id"] for each in steady.reclaim()]
    assert taken == [task_id]
    assert state(world.db, kept) == "running"
    assert alive.heartbeat()["alive"]


def test_a_clock_that_is_set_back_puts_no_task_off(db: Connection, peer: Peer) -> None:
    """What was submitted to run at once does so, before and behind its parents; the rest waits."""
    parent = submit(db)
    child = submit(db, "a", depends_on=[parent])
    later = value(db, "select peers.submit('a', scheduled_at => now() + interval '1 day')")
    advance(db, "-1 h")
    after = submit(db)
    changed = submit(db)
    run(db, "select peers.change(%s, max_attempts => 3)", changed)
    peer.heartbeat()
    claims = peer.claim()
    assert {claim.task_id for claim in claims} == {parent, after, changed}
    assert peer.complete(*claims) == {}
    assert states(db, child, later) == ["ready", "scheduled"]
    assert problems(db) == []


def test_release_gives_the_attempt_back(db: Connection, peer: Peer) -> None:
    """A handler that never started costs nothing; the task runs again, at the tail."""
    first, second = submit(db), submit(db)
    claims = peer.claim(1)
    assert peer.release(*claims) == {}
    assert (state(db, first), attempt(db, first)) == ("ready", 0)
    assert value(db, "select count(*) from peers.failure") == 0
    assert [claim.task_id for claim in peer.claim()] == [second, first]
    assert attempt(db, first) == 1


def test_release_needs_the_pair(world: World) -> None:
    """Only (task, token) of the peer itself is given back."""
    submit(world.db)
    submit(world.db)
    owner, other = world.peer(), world.peer()
    [one, two] = owner.claim(1) + owner.claim(1)
    crossed = [(one.task_id, two.token), (two.task_id, unknown_token())]
    assert other.release(one) == {one.pair: "stale"}
    assert owner.release(*crossed) == dict.fromkeys(crossed, "stale")
    assert owner.release(one, one) == {}
    assert owner.release(one) == {one.pair: "stale"}
    assert value(world.db, "select count(*) from peers.lease") == 1


def test_reconcile_releases_what_the_peer_does_not_know(db: Connection, peer: Peer) -> None:
    """A claim whose answer was lost does not leak: its tasks run again, uncounted."""
    known_id = submit(db)
    [known] = peer.claim(1)
    lost_id = submit(db)
    peer.claim(1)  # the answer is lost on its way
    assert peer.reconcile(known.token) == 1
    assert (state(db, known_id), state(db, lost_id)) == ("running", "ready")
    assert attempt(db, lost_id) == 0
    assert peer.reconcile(known.token) == 0


def test_leave_gives_everything_back_and_goes(world: World) -> None:
    """A peer that leaves holds nothing and is seen no more."""
    for _ in range(3):
        submit(world.db)
    leaving = world.peer()
    leaving.claim(2)
    assert leaving.leave() == 2
    assert value(world.db, "select count(*) from peers.peer_status") == 0
    assert len(world.peer().claim()) == 3
    assert leaving.heartbeat()["alive"] is False


def test_what_is_busy_when_a_peer_leaves_is_reclaimed(world: World) -> None:
    """A lease that could not be given back is taken by the next peer that looks."""
    task_id = submit(world.db)
    leaving, steady, application = world.peer(), world.peer("other"), world.connect()
    leaving.claim()
    steady.advance_steadily(30)
    leaving.heartbeat()
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", task_id)
        assert leaving.leave() == 0
    assert [each["task_id"] for each in steady.reclaim()] == [task_id]
    assert problems(world.db) == []


def test_progress_needs_the_lease(world: World) -> None:
    """Progress is shown in peers.running, and refused without the lease."""
    submit(world.db)
    owner, other = world.peer(), world.peer()
    [claim] = owner.claim()
    query = "select peers.progress(%s, %s, %s, 3, 10)"
    assert value(world.db, query, owner.id, claim.task_id, claim.token) is True
    assert value(world.db, query, other.id, claim.task_id, claim.token) is False
    assert value(world.db, query, owner.id, claim.task_id, unknown_token()) is False
    shown = row(world.db, "select * from peers.running")
    assert (shown["progress_done"], shown["progress_total"]) == (3, 10)


@pytest.mark.parametrize("lease", ["0 s", "-1 s", "2 days"])
def test_an_absurd_lease_timeout_is_refused(world: World, lease: str) -> None:
    """A lease lasts 1 second to 1 day, and the refusal says so."""
    with pytest.raises(psycopg.DatabaseError, match="1 second to 1 day"):
        world.peer(lease=lease)


ABSURD_POLICIES: dict[str, dict[str, object]] = {
    "a backoff of 100,000,000 years": {"backoff_cap": "100000000 years"},
    "a base beyond the cap": {"backoff_base": "2 h"},
    "366 days": {"backoff_cap": "366 days"},
    "a month": {"backoff_cap": "1 month"},
    "a negative base": {"backoff_base": "-1 s"},
    "no attempt": {"max_attempts": 0},
    "too many attempts": {"max_attempts": 1001},
    "a timeout of 31 days": {"timeout": "31 days"},
    "a timeout of nothing": {"timeout": "0 s"},
    "a queue without a name": {"queue": ""},
    "a queue with too long a name": {"queue": "q" * 201},
    "a priority of 16 bits and one": {"priority": 32768},
    "a kind without a name": {"kind": ""},
    "a kind with too long a name": {"kind": "k" * 201},
}


@pytest.mark.parametrize("case", ABSURD_POLICIES)
def test_an_absurd_policy_is_refused(world: World, case: str) -> None:
    """A peer that would bring a policy out of bounds does not join, and is told which bound."""
    with pytest.raises(psycopg.DatabaseError, match="must") as refused:
        world.peer(policies=[{"kind": "a"} | ABSURD_POLICIES[case]])
    assert refused.value.sqlstate == "PE009"
    assert rows(world.db, "select * from peers.kind") == []


def test_an_infinite_policy_is_refused(world: World) -> None:
    """Where intervals can be infinite (from 17 on), none gets in."""
    infinite = {"kind": "a", "backoff_base": "infinity", "backoff_cap": "infinity"}
    with pytest.raises(psycopg.DatabaseError) as refused:
        world.peer(policies=[infinite])
    assert refused.value.sqlstate in ("PE009", "22007")  # 22007: no such interval before 17


@pytest.mark.parametrize(
    "column_name", ["queue", "max_attempts", "timeout", "backoff_base", "backoff_cap"]
)
def test_a_policy_out_of_bounds_cannot_be_written_by_hand(db: Connection, column_name: str) -> None:
    """The table's own constraints hold for its owner too."""
    wrong = {"queue": "''", "max_attempts": "0"}.get(column_name, "interval '100000000 years'")
    run(db, "insert into peers.kind (kind) values ('a')")
    with pytest.raises(psycopg.errors.CheckViolation):
        run(db, f"update peers.kind set {column_name} = {wrong}")


@pytest.mark.parametrize("queues", ["[]", "7", "null", '{"": 1}', '{"q": 0}', '{"q": 1e1000}'])
def test_queues_that_are_no_object_are_refused(db: Connection, queues: str) -> None:
    """A peer says its queues as an object with their slots; nothing else gets in to break views."""
    with pytest.raises(psycopg.DatabaseError, match="queues"):
        run(db, "select peers.join('h', 1, %s::jsonb, '[]', '30 s', 1)", queues)
    assert rows(db, "select * from peers.queue_status") == []


def test_the_last_declaration_of_a_kind_wins(world: World) -> None:
    """A new release of an application brings its new policy."""
    old = {"queue": "q", "priority": 1, "max_attempts": 3, "timeout": "1 s", "backoff_base": "2 s",
           "backoff_cap": "3 s"}  # fmt: skip
    new = {"queue": "r", "priority": 2, "max_attempts": 4, "timeout": "2 s", "backoff_base": "3 s",
           "backoff_cap": "4 s"}  # fmt: skip
    world.peer(policies=[{"kind": "a", **old}])
    for name, declared in new.items():
        world.peer(policies=[{"kind": "a", **old, name: declared}])
        [kind] = rows(world.db, f"select {name}::text from peers.kind")
        assert kind[name].removeprefix("00:00:0") == str(declared).removesuffix(" s")


def test_a_release_says_why_a_task_was_stopped(db: Connection, peer: Peer) -> None:
    """Each under its own token; without a reason, or under another token, nothing is said, and what
    was said before stays. explain() repeats it while the task waits.
    """
    ids = [submit(db) for _ in range(3)]
    claims = {claim.task_id: claim for claim in peer.claim()}
    tokens = [claims[task_id].token for task_id in ids]

    def release(tokens: list[UUID], *reasons: str | None) -> list[str]:
        query = "select verdict from peers.release(%s, %s::bigint[], %s::uuid[], %s::text[])"
        return column(db, query, peer.id, ids, tokens, list(reasons))

    def reasons() -> list[str | None]:
        return column(db, "select stopped_because from peers.task order by id")

    assert release([tokens[0], unknown_token(), tokens[2]], "stopped by me", "stopped by me") == [
        "stale"
    ]
    assert str(reasons()[0]).startswith("stopped by me at 2")
    assert reasons()[1:] == [None, None]
    assert "It was stopped by me at 2" in value(db, "select peers.explain(%s)", ids[0])
    assert "It was" not in value(db, "select peers.explain(%s)", ids[2])
    first, again = reasons()[0], {claim.task_id: claim for claim in peer.claim()}
    assert peer.release(*again.values()) == {}
    assert reasons()[0] == first
    assert [attempt(db, task_id) for task_id in ids] == [0, 1, 0]
    assert problems(db) == []
