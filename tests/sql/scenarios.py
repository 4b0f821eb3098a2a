"""Interleavings of sessions, each ending in what must hold whatever the others did.

A scenario runs against the SQL as shipped (test_interleavings); against SQL that was changed by a
patch that takes one safeguard out, it must fail (test_broken_variants).
"""

from __future__ import annotations

import json
from threading import Condition, Event
from typing import TYPE_CHECKING, Final

import psycopg

from tests.support.world import (
    DEADLINE,
    Claimant,
    Peer,
    Result,
    World,
    advance,
    column,
    problems,
    promote,
    refusal,
    result,
    rows,
    run,
    submit,
    value,
)
from tests.support.world import state as state_of

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any
    from uuid import UUID

    from tests.support.server import Connection
    from tests.support.world import Claim

EDGE = "insert into peers.dependency (parent_id, child_id) values (%s, %s)"


def ids(claims: list[Claim]) -> list[int]:
    """The tasks of claims."""
    return [claim.task_id for claim in claims]


def finish_all(peer: Peer) -> int:
    """Completes what there is to claim until there is nothing; how many."""
    done = 0
    while claims := peer.claim():
        assert peer.complete(*claims) == {}
        done += len(claims)
    return done


def assert_nothing_stranded(world: World) -> None:
    """Every task can be run to its end, and the counts are right."""
    assert problems(world.db) == []
    finish_all(world.peer())
    left = rows(
        world.db, "select id, state, pending_parents from peers.task where finished_at is null"
    )
    assert left == []


# ----------------------------------------------------------------------------------------- claiming


def ends_soon(world: World, work: Future[Any]) -> bool:
    """Whether the work ends without a long wait for a lock; nobody else waits for one."""
    return not world.waits_long(work)


def claims_do_not_wait(world: World) -> None:
    """A claim passes over what another claim and an application hold, and is given the rest."""
    held, claimed, free = (submit(world.db) for _ in range(3))
    application, first, second = world.connect(), world.peer(), world.peer()
    with first.db.transaction(), application.transaction():
        run(application, "select from peers.task where id = %s for update", held)
        for peer, expected in ((first, claimed), (second, free)):
            work = world.background(peer.claim, 1)
            assert ends_soon(world, work), "a claim waited for another session"
            assert ids(result(work)) == [expected]


def a_claim_takes_no_more_than_asked(world: World) -> None:
    """Whatever is locked at the head of the queue, a claim takes at most max_tasks."""
    run(
        world.db,
        "insert into peers.task (kind) select (array['a', 'b'])[1 + n % 2]"
        " from generate_series(1, 400) n",
    )
    peer, application = world.peer("a", "b"), world.connect()
    with application.transaction():
        run(application, "select from peers.task where id <= 20 for update")
        for size in (1, 2, 7, 50):
            assert len(peer.claim(size)) == size
    assert value(world.db, "select sum(open) from peers.lease") == 60


def a_released_child_has_one_lease(world: World) -> None:
    """Its row from before it waited and the one of its release make one claim, not two."""
    parent, child = submit(world.db), submit(world.db)
    run(world.db, EDGE, parent, child)
    peer = world.peer()
    [claim] = peer.claim(1)
    peer.complete(claim)
    assert ids(peer.claim(10)) == [child]


def a_changed_task_is_claimed_at_its_new_place(world: World) -> None:
    """The row that a task had before its priority changed does not count any more."""
    later = submit(world.db, priority=1)
    first = submit(world.db)
    run(world.db, "select peers.change(%s, priority => 500)", later)
    peer = world.peer()
    assert ids(peer.claim(1)) == [first]
    assert ids(peer.claim(1)) == [later]
    assert problems(world.db) == []


def a_task_that_waits_again_is_not_claimed(world: World) -> None:
    """The row that a task had before it waited for a parent does not count any more."""
    parent, child = submit(world.db, "b"), submit(world.db)
    run(world.db, EDGE, parent, child)
    assert world.peer().claim() == []
    assert state_of(world.db, child) == "blocked"


def a_row_that_commits_late_is_found(world: World) -> None:
    """A task whose row has a position before the peer's last claim is claimed all the same."""
    peer, application = Claimant(world.peer()), world.connect()
    with application.transaction():
        late = submit(application)
        early = submit(world.db)
        assert peer.claim(1) == [early]
    submit(world.db, "b")
    assert peer.claim(1) == [late]


def a_locked_task_does_not_slow_down_others(world: World) -> None:
    """While it is locked, no claim begins with it: each would wait for the lock first."""
    peer, application = Claimant(world.peer()), world.connect()
    begins_later = "select (%s::peers.claim_resume).look_at > clock_timestamp() - interval '9 s'"
    locked = submit(world.db)
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", locked)
        assert peer.claim(5) == []
        for _ in range(4):
            task = submit(world.db)
            assert peer.claim(5) == [task]
            assert value(world.db, begins_later, peer.resume)


def a_large_claim_is_rolled_back(world: World) -> None:
    """Other claims were told to begin behind its tasks. One that gets too little finds them."""
    first, second = Claimant(world.peer()), Claimant(world.peer())
    run(world.db, "insert into peers.task (kind) select 'a' from generate_series(1, 700)")
    tasks = column(world.db, "select id from peers.task order by id")
    assert first.claim(200) == tasks[:200]
    assert second.claim(200) == tasks[200:400]
    with first.peer.db.transaction(force_rollback=True):
        assert first.claim(200) == tasks[400:600]
    last = submit(world.db)
    assert sorted(second.claim(400)) == [*tasks[400:], last]


def a_peer_is_lost_while_it_claims(world: World) -> None:
    """A claim that meets a reclaim of its own peer takes nothing and drops nothing."""
    submit(world.db)
    peer, other = world.peer(), world.connect()
    with other.transaction():
        run(other, "select from peers.peer where id = %s for update", peer.id)
        run(other, "update peers.peer set lost_at = now() where id = %s", peer.id)
        work = world.background(peer.claim)
        world.until_waiting_or_done(peer.db, work)
        assert work.done(), "a claim waited for a reclaim"
        assert result(work) == []
    assert value(world.db, "select count(*) from peers.ready") == 1
    assert refusal(peer.db, "select peers.claim(%s, 'default', 1)", peer.id)[0] == "PE010"


def a_trigger_refuses_one_task(world: World) -> None:
    """A task whose claim raises in an application's trigger stays ready, and stops no other."""
    run(
        world.db,
        "create function refuse() returns trigger language plpgsql as $$ begin"
        " if new.state = 'running' and new.args ? 'bad' then raise 'not this one'; end if;"
        " return new; end $$;"
        "create trigger refuse before update on peers.task"
        " for each row execute function refuse()",
    )
    good, bad, last = submit(world.db), submit(world.db, args={"bad": 1}), submit(world.db)
    peer = Claimant(world.peer())
    warnings: list[str] = []
    peer.peer.db.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    assert peer.claim(10) == [good, last]
    assert [f"task {bad} " in each for each in warnings] == [True]
    assert not peer.more
    assert state_of(world.db, bad) == "ready"
    run(world.db, "drop trigger refuse on peers.task")
    assert ids(world.peer().claim()) == [bad]


def a_full_disk_is_not_a_refusal(world: World) -> None:
    """An error that says nothing about a task fails the whole claim."""
    run(
        world.db,
        "create function refuse() returns trigger language plpgsql as $$ begin"
        " raise 'no space left' using errcode = '53100'; end $$;"
        "create trigger refuse before update on peers.task"
        " for each row execute function refuse()",
    )
    tasks = [submit(world.db) for _ in range(2)]
    peer = world.peer()
    claim = "select peers.claim(%s, 'default', 10)"
    assert refusal(peer.db, claim, peer.id)[0] == "53100"
    run(world.db, "drop trigger refuse on peers.task")
    assert ids(peer.claim()) == tasks


def a_new_child_drops_its_own_row_only(world: World) -> None:
    """Tasks of other sessions, and others of the same transaction, are claimed all the same."""
    others, application = [submit(world.db)], world.connect()
    with application.transaction():
        parent = submit(application)
        others += [parent, submit(application), submit(world.db)]
        child = submit(application, depends_on=[parent])
        others += [submit(application)]
    peer = world.peer()
    claims = peer.claim()
    assert sorted(ids(claims)) == sorted(others)
    assert child not in ids(claims)
    assert peer.complete(*claims) == {}
    assert_nothing_stranded(world)


def a_cancellation_while_its_task_is_claimed(world: World) -> None:
    """Who cancels while a claim commits reaches the running task: the peer is told."""
    task_id = submit(world.db)
    peer, operator = world.peer(), world.connect()
    with peer.db.transaction():
        [claim] = peer.claim()
        work = world.background(value, operator, "select peers.cancel(%s)", task_id)
        world.until_waiting_or_done(operator, work)
    assert result(work) == "running"
    assert peer.heartbeat()["cancelled_tokens"] == [claim.token]


# ----------------------------------------------------------------------------------------- graphs


def new_graph(db: Connection) -> int:
    """Create a graph; its id."""
    return int(value(db, "insert into peers.graph (name) values ('g') returning id"))


def a_paused_graph_is_not_claimed(world: World) -> None:
    """A task that becomes ready while its graph is paused starts after resume, not before."""
    graph = new_graph(world.db)
    parent = submit(world.db, graph_id=graph)
    child = submit(world.db, graph_id=graph, depends_on=[parent])
    peer = world.peer()
    [claim] = peer.claim()
    run(world.db, "select peers.pause_graph(%s)", graph)
    assert peer.complete(claim) == {}
    assert peer.claim() == []
    run(world.db, "select peers.resume_graph(%s)", graph)
    assert ids(peer.claim()) == [child]


def a_task_becomes_ready_while_its_graph_is_resumed(world: World) -> None:
    """The resume cannot see the task, and a claim still sees the pause: the task is not lost."""
    graph = new_graph(world.db)
    parent = submit(world.db, graph_id=graph)
    child = submit(world.db, graph_id=graph, depends_on=[parent])
    peer, claimer, operator = world.peer(), world.peer(), world.connect()
    [claim] = peer.claim()
    run(world.db, "select peers.pause_graph(%s)", graph)
    with operator.transaction():
        with peer.db.transaction():
            assert peer.complete(claim) == {}
            run(operator, "select peers.resume_graph(%s)", graph)
        assert claimer.claim() == []
    assert ids(claimer.claim()) == [child], "the task is ready, and no claim finds it"


def a_graph_is_resumed_while_a_claim_drops_its_rows(world: World) -> None:
    """The resume waits for the claim, and then puts back what the claim has dropped."""
    graph = new_graph(world.db)
    parent = submit(world.db, graph_id=graph)
    child = submit(world.db, graph_id=graph, depends_on=[parent])
    peer, operator = world.peer(), world.connect()
    [claim] = peer.claim()
    run(world.db, "select peers.pause_graph(%s)", graph)
    assert peer.complete(claim) == {}
    with peer.db.transaction():
        assert peer.claim() == []
        work = world.background(value, operator, "select peers.resume_graph(%s)", graph)
        world.until_waiting(operator)
    assert result(work) == 1
    assert ids(peer.claim()) == [child]


def a_graph_is_pruned_while_a_task_is_submitted_to_it(world: World) -> None:
    """Prune leaves a graph whose first task is not committed yet."""
    graph = new_graph(world.db)
    advance(world.db, "1 s")
    application = world.connect()
    with application.transaction():
        task = submit(application, graph_id=graph)
        run(world.db, "select * from peers.prune('0 s')")
    assert problems(world.db) == []
    assert value(world.db, "select graph_id from peers.task where id = %s", task) == graph
    assert value(world.db, "select tasks from peers.graph_status") == 1


def a_graph_is_cancelled_against_a_late_edge(world: World) -> None:
    """Who adds an edge between two tasks of a graph that is being cancelled waits for it."""
    graph = new_graph(world.db)
    low, gap, high = (submit(world.db, graph_id=graph) for _ in range(3))
    holder, operator, application = world.connect(), world.connect(), world.connect()
    with holder.transaction():
        run(holder, "select from peers.task where id = %s for update", gap)
        cancelling = world.background(refusal, operator, "select peers.cancel_graph(%s)", graph)
        world.until_waiting(operator)
        adding = world.background(refusal, application, EDGE, high, low)
        world.until_waiting(application)
    assert result(cancelling)[0] == ""
    assert result(adding)[0] == "PE002"  # the child is cancelled
    assert column(world.db, "select distinct state from peers.task") == ["cancelled"]
    assert problems(world.db) == []


def a_cancellation_locks_running_tasks_first(world: World) -> None:
    """It holds no waiting task while it waits for a peer, which may need one that is a child."""
    graph = new_graph(world.db)
    waiting, running = submit(world.db, "b", graph_id=graph), submit(world.db, graph_id=graph)
    peer, operator, probe = world.peer(), world.connect(), world.connect()
    [claim] = peer.claim()
    assert (claim.task_id, waiting < running) == (running, True)
    with peer.db.transaction():
        assert peer.complete(claim) == {}
        work = world.background(value, operator, "select peers.cancel_graph(%s)", graph)
        world.until_waiting(operator)
        lock = "select id from peers.task where id = %s for no key update skip locked"
        assert column(probe, lock, waiting) == [waiting]
    assert result(work) == 1
    assert problems(world.db) == []


def graphs_are_cancelled_while_their_tasks_complete(world: World) -> None:
    """Peers complete parents and an operator cancels the graph, again and again: no deadlock."""
    rounds, width = 8, 12
    peers, operator = [world.peer() for _ in range(2)], world.connect()
    for _ in range(rounds):
        graph = new_graph(world.db)
        parents = [submit(world.db, graph_id=graph) for _ in range(width)]
        children = [submit(world.db, "b", graph_id=graph) for _ in range(width)]
        run(
            world.db,
            "insert into peers.dependency (parent_id, child_id)"
            " select p, c from unnest(%s::bigint[]) p, unnest(%s::bigint[]) c",
            parents,
            children,
        )
        halves = [peer.claim(width // 2) for peer in peers]
        work = [
            world.background(_complete_all, peer, half)
            for peer, half in zip(peers, halves, strict=True)
        ]
        cancelling = world.background(value, operator, "select peers.cancel_graph(%s)", graph)
        for each in work:
            result(each)
        result(cancelling)
        left = "select count(*) from peers.task where state not in ('completed', 'cancelled')"
        assert value(world.db, left) == 0
    assert problems(world.db) == []


# ---------------------------------------------------------------------------------------- the fence


def a_former_lease_records_nothing(world: World) -> None:
    """After reclaim and a new claim by the same and by another peer, old outcomes are void."""
    submit(world.db, max_attempts=9)
    slow, steady = world.peer(), world.peer()
    [old] = slow.claim()
    steady.advance_steadily(30)
    assert len(steady.reclaim()) == 1
    [new] = steady.claim()
    assert slow.complete(old, result="old") == {old.pair: "stale"}
    assert slow.complete(new, result="thief") == {new.pair: "stale"}
    assert steady.complete(old, result="old") == {old.pair: "stale"}
    assert state_of(world.db, old.task_id) == "running"
    assert steady.complete(new, result="new") == {}
    assert value(world.db, "select result from peers.task") == "new"


def a_part_that_was_released_has_left_its_lease(world: World) -> None:
    """A released task is claimed again while the rest of its lease runs: its old token is void."""
    for _ in range(3):
        submit(world.db)
    peer = world.peer()
    one, two, three = peer.claim()
    assert peer.release(one) == {}
    [again] = peer.claim()
    assert again.task_id == one.task_id
    assert peer.complete(one, result="old") == {one.pair: "stale"}
    assert peer.complete(one, two, result="new") == {one.pair: "stale"}
    mixed = [one.pair, three.pair, again.pair]
    assert peer.complete(*mixed, result="new") == {one.pair: "stale"}
    assert column(world.db, "select distinct result from peers.task") == ["new"]
    assert rows(world.db, "select from peers.lease") == []
    assert problems(world.db) == []


def a_lease_is_half_recorded_when_its_peer_dies(world: World) -> None:
    """Only what still runs is reclaimed, and nothing of the lease is left."""
    for _ in range(5):
        submit(world.db, max_attempts=1)
    lost, steady = world.peer(), world.peer("other")
    done, failed, released, *running = lost.claim()
    assert (lost.complete(done), lost.fail(failed), lost.release(released)) == ({}, {}, {})
    steady.advance_steadily(30)
    taken = [each["task_id"] for each in steady.reclaim()]
    assert sorted(taken) == sorted(ids(running))
    assert state_of(world.db, done.task_id) == "completed"
    assert state_of(world.db, released.task_id) == "ready"
    assert rows(world.db, "select from peers.lease") == []
    assert problems(world.db) == []


def reconcile_takes_whole_leases_that_are_unknown(world: World) -> None:
    """What runs under an unknown token is released, uncounted; a known lease stays as it is."""
    for _ in range(6):
        submit(world.db)
    peer = world.peer()
    known, unknown = peer.claim(3), peer.claim(3)
    assert peer.complete(known[0], unknown[0]) == {}
    assert peer.reconcile(known[0].token) == 2
    attempts = "select attempt from peers.task where id = any(%s) order by id"
    assert column(world.db, attempts, ids(unknown)) == [1, 0, 0]
    assert [state_of(world.db, each) for each in ids(known)] == ["completed", "running", "running"]
    assert column(world.db, "select open from peers.lease") == [2]
    assert problems(world.db) == []


def two_sessions_record_parts_of_one_lease(world: World) -> None:
    """However their commits interleave, the last outcome deletes the lease, and no other does."""
    size = 240
    run(world.db, "insert into peers.task (kind) select 'a' from generate_series(1, %s)", size)
    peer = world.peer()
    claims = peer.claim(size)
    sessions = [Peer(world.connect(), peer.id) for _ in range(2)]

    def record(session: Peer, part: list[Claim]) -> None:
        for first in range(0, len(part), 3):
            left = [claim.pair for claim in part[first : first + 3]]
            while left:
                with session.db.transaction():
                    left = [*session.complete(*left)]

    work = [
        world.background(record, session, claims[first::2])
        for first, session in enumerate(sessions)
    ]
    for each in work:
        result(each)
    assert rows(world.db, "select from peers.lease") == []
    assert problems(world.db) == []


def a_leaked_token_is_of_no_use(world: World) -> None:
    """Another peer cannot record an outcome under a token that it knows."""
    submit(world.db)
    owner, thief = world.peer(), world.peer()
    [claim] = owner.claim()
    assert thief.complete(claim, result="thief") == {claim.pair: "stale"}
    assert state_of(world.db, claim.task_id) == "running"


def nobody_judges_after_an_outage(world: World) -> None:
    """The first peer that is back does not take the tasks of those that are about to be."""
    submit(world.db)
    first, second = world.peer("other"), world.peer()
    first.advance_steadily(60)
    second.heartbeat()
    [claim] = second.claim()
    advance(world.db, "5 min")
    first.heartbeat()
    assert first.reclaim() == []
    second.heartbeat()
    assert second.complete(claim) == {}


def a_claim_and_a_reclaim_of_its_peer_follow_one_another(world: World) -> None:
    """A peer that is given up while it claims leaves no lease that nobody takes back."""
    task_id = submit(world.db)
    late, steady = world.peer(), world.peer("other")
    steady.advance_steadily(20)
    with late.db.transaction():
        assert len(late.claim()) == 1
        steady.advance_steadily(20)
        assert steady.reclaim() == []
    assert [each["task_id"] for each in steady.reclaim()] == [task_id]
    assert problems(world.db) == []


# ----------------------------------------------------------------------------------------- outcomes


def an_outcome_does_not_wait_for_an_application(world: World) -> None:
    """Complete, fail and release soon return while another session has the task locked."""
    for _ in range(3):
        submit(world.db)
    peer, application = world.peer(), world.connect()
    one, two, three = peer.claim()
    with application.transaction():
        run(application, "select from peers.task for update")
        for verb, claim in ((peer.complete, one), (peer.fail, two), (peer.release, three)):
            work = world.background(verb, claim)
            assert ends_soon(world, work), "an outcome waited for an application"
            assert result(work) == {claim.pair: "busy"}
    assert (peer.complete(one), peer.fail(two), peer.release(three)) == ({}, {}, {})


def a_death_does_not_wait_for_an_application(world: World) -> None:
    """A death that cancels descendants gets busy while another session has one of them locked."""
    parent = submit(world.db, max_attempts=1)
    child = submit(world.db, depends_on=[parent], on_parent_failure="cancel")
    grandchild = submit(world.db, depends_on=[child])
    peer, application = world.peer(), world.connect()
    [claim] = peer.claim()
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", grandchild)
        work = world.background(peer.fail, claim)
        assert ends_soon(world, work), "an outcome waited for an application"
    for pair in result(work):
        assert peer.fail(pair) == {}
    assert state_of(world.db, grandchild) == "cancelled"


def a_stream_of_new_children_delays_their_parent(world: World) -> None:
    """Sessions that keep adding children make it busy for a while, and block no call for long."""
    parents = [submit(world.db) for _ in range(3)]
    _outlast_a_stream_of_edges(world, parents, parents)


def a_stream_of_new_grandchildren_delays_their_grandparent(world: World) -> None:
    """The same where each child of a parent gets new children itself."""
    parents = [submit(world.db, max_attempts=1) for _ in range(3)]
    children = [
        submit(world.db, "b", depends_on=[parent], on_parent_failure="run") for parent in parents
    ]
    _outlast_a_stream_of_edges(world, parents, children)


_MANY_SESSIONS: Final = 500
"""A call that does not wait for them ends after 1 to 80."""


class _Relay:
    """Sessions of which always one holds its lock: each commits when another has locked, too."""

    def __init__(self) -> None:
        self._held, self._changed = 0, Condition()

    def hold(self) -> None:
        """Return when a later session holds its lock as well, or soon, when none comes."""
        with self._changed:
            self._held += 1
            mine = self._held
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._held > mine, timeout=0.1)

    def run_past(self, work: Future[Result]) -> Result:
        """Return the result of work that may not wait for a stream of sessions."""
        with self._changed:
            latest = self._held + _MANY_SESSIONS
            self._changed.wait_for(lambda: work.done() or self._held > latest, DEADLINE)
        assert work.done(), "a call waited for a stream of sessions"
        return work.result()


def _outlast_a_stream_of_edges(world: World, tasks: list[int], parents: list[int]) -> None:
    peer, over, relay = world.peer(), Event(), _Relay()
    claims = peer.claim(len(tasks))
    # a call that waits for one session after another would end with the first longer wait
    run(world.db, "alter function peers.complete set lock_timeout = '1min'")

    def add_children(session: Connection) -> None:
        while not over.is_set():
            with session.transaction():
                submit(session, "b", depends_on=parents)
                relay.hold()

    streams = [world.background(add_children, world.connect()) for _ in range(8)]
    try:
        for verb, claim in zip((peer.complete, peer.fail, peer.release), claims, strict=True):
            busy: dict[tuple[int, UUID], str] = {}
            for attempt in range(30):
                work = world.background(verb, claim, patient=attempt >= 3)
                busy = relay.run_past(work)
                if not busy:
                    break
            assert not busy, "its outcome was never recorded"
    finally:
        over.set()
        for each in streams:
            result(each)
    assert problems(world.db) == []


def parents_that_complete_at_the_same_time(world: World) -> None:
    """Two parents complete in overlapping transactions: the child is unblocked."""
    parents = [submit(world.db), submit(world.db)]
    child = submit(world.db, depends_on=parents)
    first, second = world.peer(), world.peer()
    [one], [two] = first.claim(1), second.claim(1)
    with first.db.transaction():
        assert first.complete(one) == {}
        work = world.background(second.complete, two)
        world.until_waiting_or_done(second.db, work)
    for pair in result(work):
        assert second.complete(pair) == {}  # it was busy: asked again
    assert state_of(world.db, child) == "ready"
    assert_nothing_stranded(world)


def an_edge_while_its_parent_completes(world: World) -> None:
    """An edge is inserted before its parent's completion commits: the child is not stranded."""
    parent = submit(world.db)
    peer, application = world.peer(), world.connect()
    [claim] = peer.claim()
    with peer.db.transaction():
        assert peer.complete(claim) == {}
        work = world.background(submit, application, "a", depends_on=[parent])
        world.until_waiting_or_done(application, work)
    assert state_of(world.db, result(work)) == "ready"
    assert_nothing_stranded(world)


def a_parent_completes_while_its_edge_is_not_committed(world: World) -> None:
    """A parent with an uncommitted edge gets busy, and its completion then counts that edge."""
    parent = submit(world.db)
    peer, application = world.peer(), world.connect()
    [claim] = peer.claim()
    with application.transaction():
        child = submit(application, depends_on=[parent])
        unsettled = peer.complete(claim)
    for pair in unsettled:
        assert peer.complete(pair) == {}
    assert state_of(world.db, child) == "ready"
    assert_nothing_stranded(world)


def an_edge_while_its_child_is_claimed(world: World) -> None:
    """A child that starts while an edge into it is inserted refuses the edge."""
    parent, child = submit(world.db, "b"), submit(world.db)
    peer, application = world.peer(), world.connect()
    with peer.db.transaction():
        assert ids(peer.claim()) == [child]
        work = world.background(run, application, EDGE, parent, child)
        world.until_waiting_or_done(application, work)
    error = work.exception(timeout=60)
    assert isinstance(error, psycopg.DatabaseError), "a running child got a parent"
    assert error.sqlstate == "PE002"
    assert problems(world.db) == []


def a_parent_dies_while_its_edge_is_inserted(world: World) -> None:
    """The second session applies the policy: the child does not wait for a cancelled parent."""
    parent = submit(world.db)
    operator, application = world.connect(), world.connect()
    with operator.transaction():
        run(operator, "select peers.cancel(%s)", parent)
        work = world.background(submit, application, "a", depends_on=[parent])
        world.until_waiting_or_done(application, work)
    assert state_of(world.db, result(work)) == "cancelled"
    assert problems(world.db) == []


def a_cascade_while_a_descendant_gets_a_parent(world: World) -> None:
    """What is hung below a task that a cascade is about to cancel goes down with it."""
    top = submit(world.db)
    middle = submit(world.db, depends_on=[top])
    application, operator = world.connect(), world.connect()
    with application.transaction():
        bottom = submit(application, depends_on=[middle])
        work = world.background(run, operator, "select peers.cancel(%s)", top)
        world.until_waiting_or_done(operator, work)
    result(work)
    assert [state_of(world.db, each) for each in (top, middle, bottom)] == ["cancelled"] * 3
    assert problems(world.db) == []


def an_edge_before_the_trigger_of_its_childs_submission(world: World) -> None:
    """A statement whose edge is counted first leaves a child for later blocked, not scheduled."""
    [edge] = rows(
        world.db,
        """with p as (insert into peers.task (kind) values ('a') returning id),
                k as (insert into peers.task (kind, scheduled_at)
                      values ('a', now() + interval '1 second') returning id)
           insert into peers.dependency (parent_id, child_id)
           select p.id, (select k.id from k limit 1) from p returning child_id""",
    )
    assert state_of(world.db, edge["child_id"]) == "blocked"
    advance(world.db, "2 s")
    promote(world.db)
    assert edge["child_id"] not in ids(world.peer().claim())


# ------------------------------------------------------------------------------------------- cycles


def two_sessions_close_a_cycle(world: World) -> None:
    """Each session's edge is harmless alone; the second to come is refused."""
    one, two = submit(world.db), submit(world.db)
    first, second = world.connect(), world.connect()
    with first.transaction():
        run(first, EDGE, one, two)
        work = world.background(run, second, EDGE, two, one)
        world.until_waiting_or_done(second, work)
    error = work.exception(timeout=60)
    assert isinstance(error, psycopg.DatabaseError), "two sessions have closed a cycle"
    assert error.sqlstate == "PE001"
    assert_nothing_stranded(world)


def two_sessions_close_a_long_cycle(world: World) -> None:
    """The same where the edges of the two sessions share no task."""
    one, two, three, four = (submit(world.db) for _ in range(4))
    run(world.db, EDGE, one, two)
    run(world.db, EDGE, three, four)
    first, second = world.connect(), world.connect()
    with first.transaction():
        run(first, EDGE, two, three)
        work = world.background(run, second, EDGE, four, one)
        world.until_waiting_or_done(second, work)
    error = work.exception(timeout=60)
    assert isinstance(error, psycopg.DatabaseError), "two sessions have closed a cycle"
    assert error.sqlstate == "PE001"
    assert str(error).splitlines()[0].count("->") == 4
    assert_nothing_stranded(world)


# ----------------------------------------------------------------------------------------- counting


def a_completed_row_counts_once(world: World) -> None:
    """An UPDATE that touches a task which ended long ago does not count its children down again."""
    parent, other = submit(world.db), submit(world.db)
    child = submit(world.db, depends_on=[parent, other])
    peer = world.peer()
    [claim] = peer.claim(1)
    assert peer.complete(claim) == {}
    run(world.db, "update peers.task set metadata = '{}' where id = %s", parent)
    assert state_of(world.db, child) == "blocked"
    assert_nothing_stranded(world)


def a_waived_edge_stays_waived(world: World) -> None:
    """A parent that fails, is retried and completes lets its `run` child go once, not twice."""
    parent, other = submit(world.db), submit(world.db)
    child = submit(world.db, depends_on=[parent, other], on_parent_failure="run")
    peer = world.peer()
    [claim] = peer.claim(1)
    assert peer.fail(claim, reject=True) == {}
    run(world.db, "select peers.retry(%s)", parent)
    claims = peer.claim()
    assert peer.complete(*(claim for claim in claims if claim.task_id == parent)) == {}
    assert state_of(world.db, child) == "blocked"
    assert peer.complete(*(claim for claim in claims if claim.task_id == other)) == {}
    assert_nothing_stranded(world)


def a_completion_under_an_old_snapshot(world: World) -> None:
    """A REPEATABLE READ session that cannot see an edge must not complete its parent."""
    parent = submit(world.db)
    peer = world.peer()
    [claim] = peer.claim()
    run(peer.db, "begin isolation level repeatable read")
    run(peer.db, "select from peers.task")
    submit(world.db, depends_on=[parent])
    try:
        peer.complete(claim)
    except psycopg.DatabaseError as refused:
        assert refused.sqlstate == "PE003"  # noqa: PT017  # going on is what is tested
        run(peer.db, "rollback")
        assert peer.complete(claim) == {}
    else:
        run(peer.db, "commit")
    assert_nothing_stranded(world)


def a_session_with_another_search_path(world: World) -> None:
    """Tables and functions that a session's search_path finds first never reach our triggers."""
    session = world.connect()
    run(session, "create schema mine")
    run(
        session,
        "create function mine.pg_current_xact_id() returns xid8"
        " language plpgsql as $$ begin raise exception 'mine was called'; end $$",
    )
    run(
        session,
        "create function mine.jsonb_typeof(jsonb) returns text"
        " language plpgsql as $$ begin raise exception 'mine was called'; end $$",
    )
    for path in ("mine, pg_catalog", "''"):
        run(session, f"set search_path = {path}")
        run(session, "insert into peers.task (kind, args) values ('a', '{}')")
        parent = submit(session)
        child = submit(session, depends_on=[parent])
        first = value(session, "select pg_catalog.min(id) from peers.task")
        run(session, EDGE, first, child)
    assert_nothing_stranded(world)


# ---------------------------------------------------------------------------------------- deadlocks


def batches_with_shared_children(world: World) -> None:
    """Parents of the same children complete in opposite orders, many times, without a deadlock."""
    rounds, width = 12, 24
    peers = [world.peer() for _ in range(2)]
    for _ in range(rounds):
        parents = [submit(world.db) for _ in range(width)]
        children = [submit(world.db, "b") for _ in range(width)]
        run(
            world.db,
            "insert into peers.dependency (parent_id, child_id)"
            " select p, c from unnest(%s::bigint[]) p, unnest(%s::bigint[]) c",
            parents,
            children,
        )
        halves = [peer.claim(width // 2) for peer in peers]
        halves[1].reverse()
        work = [
            world.background(_complete_all, peer, half)
            for peer, half in zip(peers, halves, strict=True)
        ]
        for each in work:
            result(each)
        assert column(
            world.db, "select distinct state from peers.task where id = any (%s)", children
        ) == ["ready"]
    assert problems(world.db) == []


def _complete_all(peer: Peer, claims: list[Claim]) -> None:
    left = [claim.pair for claim in claims]
    while left:
        verdicts = peer.complete(*left)
        assert set(verdicts.values()) <= {"busy"}
        left = [*verdicts]


def children_are_locked_in_the_order_of_their_ids(world: World) -> None:
    """A completion that waits for the child with the smaller id does not hold the larger one."""
    seen = False
    while not seen:  # the wait ends by itself after a moment; what is seen then tells nothing
        low, high = submit(world.db, "b"), submit(world.db, "b")
        parent = submit(world.db)
        run(world.db, EDGE, parent, high)
        run(world.db, EDGE, parent, low)
        peer, holder, probe = world.peer(), world.connect(), world.connect()
        [claim] = peer.claim()
        with holder.transaction():
            run(holder, "select from peers.task where id = %s for no key update", low)
            work = world.background(peer.complete, claim)
            world.until_waiting_or_done(peer.db, work)
            lock = "select id from peers.task where id = %s for no key update skip locked"
            free = column(probe, lock, high) == [high]
            seen = not work.done() and world.is_waiting(peer.db)
            assert free or not seen, "it holds the larger child while it waits for the smaller one"
        _complete_all(peer, [claim for pair in result(work) if pair == claim.pair])
    assert problems(world.db) == []


def submit_graph(db: Connection, *keys: str) -> list[int]:
    """Submits a graph of keyed nodes without edges; the ids."""
    nodes = [{"name": key, "kind": "a", "idempotency_key": key} for key in keys]
    return column(db, "select task_id from peers.submit_graph(%s::jsonb)", json.dumps(nodes))


def graphs_with_the_same_keys(world: World) -> None:
    """Two graphs whose keys come in opposite orders wait for one another, and do not deadlock."""
    holder, first, second = world.connect(), world.connect(), world.connect()
    with holder.transaction(force_rollback=True):
        submit(holder, idempotency_key="m")
        work = []
        for session, keys in ((first, "amz"), (second, "zma")):
            work.append(world.background(submit_graph, session, *keys))
            world.until_waiting_or_done(session, work[-1])
    assert result(work[0]) == result(work[1])[::-1]
    assert value(world.db, "select count(*) from peers.task") == 3
    assert_nothing_stranded(world)


def a_keyed_task_is_pruned_while_its_key_is_submitted(world: World) -> None:
    """submit_graph inserts the task again, and returns no id that prune has deleted."""
    old = submit(world.db, idempotency_key="a")
    run(world.db, "select peers.cancel(%s)", old)
    holder, application = world.connect(), world.connect()
    with holder.transaction():
        submit(holder, idempotency_key="b")
        work = world.background(submit_graph, application, "a", "b")
        world.until_waiting(application)  # it has seen that "a" is there
        advance(world.db, "1 s")
        run(world.db, "select * from peers.prune('0')")
    made = result(work)
    assert old not in made
    assert column(world.db, "select id from peers.task order by idempotency_key") == made


def a_cancellation_against_a_late_edge(world: World) -> None:
    """Who adds an edge between two descendants of a task that is being cancelled waits for it."""
    root, low, gap, high = (submit(world.db) for _ in range(4))
    for child in (low, gap, high):
        run(world.db, EDGE, root, child)
    holder, operator, application = world.connect(), world.connect(), world.connect()
    with holder.transaction():
        run(holder, "select from peers.task where id = %s for update", gap)
        cancelling = world.background(refusal, operator, "select peers.cancel(%s)", root)
        world.until_waiting(operator)
        adding = world.background(refusal, application, EDGE, high, low)
        world.until_waiting(application)
    # in a deadlock Postgres ends either of the two: whichever is first to look for one
    assert result(cancelling)[0] == ""
    assert result(adding)[0] == "PE002"  # the child is cancelled
    assert column(world.db, "select distinct state from peers.task") == ["cancelled"]
    assert problems(world.db) == []


def a_cancellation_against_a_new_child(world: World) -> None:
    """A task that waits for a parent and for that parent's child, whose id is smaller."""
    low, gap, root = (submit(world.db) for _ in range(3))
    run(world.db, EDGE, root, low)
    holder, operator, application = world.connect(), world.connect(), world.connect()
    with holder.transaction():
        run(holder, "select from peers.task where id = %s for update", gap)
        adding = world.background(submit, application, depends_on=[low, gap, root])
        world.until_waiting(application)
        cancelling = world.background(run, operator, "select peers.cancel(%s)", root)
        world.until_waiting(operator)
    result(cancelling)
    child = result(adding)
    assert [state_of(world.db, each) for each in (low, root, child)] == ["cancelled"] * 3
    assert_nothing_stranded(world)
