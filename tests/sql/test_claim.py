"""Claims: who gets which tasks, in which order, and never two the same."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.world import (
    Claim,
    Peer,
    World,
    advance,
    column,
    promote,
    result,
    row,
    rows,
    run,
    state,
    states,
    submit,
    value,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from tests.support.server import Connection


def ids(claims: list[Claim]) -> list[int]:
    """The tasks of claims."""
    return [claim.task_id for claim in claims]


def submit_many(db: Connection, kind: str, count: int) -> list[int]:
    """Submits that many tasks in one statement."""
    query = "insert into peers.task (kind) select %s from generate_series(1, %s) returning id"
    return column(db, query, kind, count)


def test_smaller_priorities_come_first_and_then_the_order_of_becoming_ready(
    db: Connection, peer: Peer
) -> None:
    """Claims follow priority, and within one the order in which tasks became ready."""
    late = submit(db, priority=200)
    middle = [submit(db) for _ in range(3)]
    urgent = [submit(db, priority=-5), submit(db, priority=-5)]
    assert ids(peer.claim(4)) == [*urgent, *middle[:2]]
    assert ids(peer.claim(4)) == [middle[2], late]


def test_a_retried_task_goes_to_the_tail_of_its_priority(db: Connection, peer: Peer) -> None:
    """Position is the order of becoming ready, not of submission."""
    first, second = submit(db), submit(db)
    peer.fail(*peer.claim(1), retry_in=0)
    third = submit(db)
    assert ids(peer.claim()) == [second, first, third]


@pytest.mark.usefixtures("_stopped_clock")
def test_promoted_tasks_line_up_by_their_time(db: Connection, peer: Peer) -> None:
    """What becomes due is lined up by due time, behind what was ready before."""
    later = [
        value(db, "select peers.submit('a', scheduled_at => now() + %s::interval)", f"{n} s")
        for n in (30, 10, 20)
    ]
    ready = submit(db)
    advance(db, "29 s")
    peer.heartbeat()
    advance(db, "2 s")
    assert promote(db) == 3
    assert ids(peer.claim()) == [ready, later[1], later[2], later[0]]


def test_a_peer_is_given_only_kinds_that_it_can_run(world: World) -> None:
    """Unknown kinds stay where they are, ready, whatever their priority."""
    foreign = submit(world.db, "b", priority=1)
    own = submit(world.db, "a")
    assert ids(world.peer("a").claim()) == [own]
    assert state(world.db, foreign) == "ready"
    assert ids(world.peer("a", "b").claim()) == [foreign]
    assert world.peer(policies=[{"kind": "c"}]).claim() == []


def test_a_peer_without_kinds_claims_nothing(db: Connection) -> None:
    """A peer whose app has no handlers gets no task and no error."""
    submit(db)
    identity = value(
        db, "select peers.join('h', 1, '{\"default\": 1}', '[]', '30 s', peers.contract_version())"
    )
    assert Peer(db, identity).claim() == []


def test_kinds_share_by_priority_not_by_name(world: World) -> None:
    """A peer of several kinds gets the best tasks of all of them, in one order."""
    submitted = []
    for number in range(60):
        kind = "abc"[number % 3]
        submitted.append((number % 7, submit(world.db, kind, priority=number % 7)))
    peer = world.peer("a", "b", "c")
    expected = [task_id for _, task_id in sorted(submitted)]
    assert ids(peer.claim(25)) == expected[:25]
    assert ids(peer.claim(25)) == expected[25:50]
    assert ids(peer.claim(25)) == expected[50:]


def test_queues_are_separate(world: World) -> None:
    """A claim takes from the queue that it names."""
    media, default = submit(world.db, queue="media"), submit(world.db)
    peer = world.peer(queues=["default", "media"])
    assert ids(peer.claim(queue="media")) == [media]
    assert ids(peer.claim()) == [default]
    assert peer.claim(queue="nowhere") == []


def test_a_paused_queue_gives_nothing_until_resumed(world: World) -> None:
    """Pause stops claims of that queue only; what runs, runs on; twice is as good as once."""
    peer = world.peer()
    running = submit(world.db)
    [claim] = peer.claim()
    waiting, other = submit(world.db), submit(world.db, queue="other")
    run(world.db, "select peers.pause('default')")
    run(world.db, "select peers.pause('default')")
    assert peer.claim() == []
    assert ids(peer.claim(queue="other")) == [other]
    assert peer.complete(claim) == {}
    assert state(world.db, running) == "completed"
    run(world.db, "select peers.resume('default')")
    assert ids(peer.claim()) == [waiting]


def test_an_expired_peer_may_not_claim(db: Connection, peer: Peer) -> None:
    """A peer whose heartbeat is older than its lease is refused, until it renews."""
    submit(db)
    advance(db, "31 s")
    with pytest.raises(psycopg.DatabaseError, match="heartbeat") as refused:
        peer.claim()
    assert refused.value.sqlstate == "PE010"
    assert peer.heartbeat()["alive"]
    assert len(peer.claim()) == 1


def test_an_unknown_peer_may_not_claim(db: Connection) -> None:
    """An identity that never joined is refused."""
    with pytest.raises(psycopg.DatabaseError) as refused:
        Peer(db, value(db, "select gen_random_uuid()")).claim()
    assert refused.value.sqlstate == "PE010"


@pytest.mark.parametrize("max_tasks", [0, -1, 10_001, None])
def test_an_absurd_number_of_tasks_is_refused(peer: Peer, max_tasks: int) -> None:
    """max_tasks has bounds, and the refusal names them."""
    with pytest.raises(psycopg.DatabaseError, match="1 to 10000") as refused:
        peer.claim(max_tasks)
    assert refused.value.sqlstate == "PE009"


def test_a_claim_marks_its_tasks_and_leases_them(db: Connection, peer: Peer) -> None:
    """After a claim the tasks run under the lease's token, and have no row in ready."""
    tasks = [submit(db, timeout="5 s"), submit(db)]
    claims = peer.claim()
    marks = "select distinct state, attempt, token from peers.task"
    assert row(db, marks) == {"state": "running", "attempt": 1, "token": claims[0].token}
    lease = row(db, "select * from peers.lease")
    assert (lease["peer_id"], lease["token"]) == (peer.id, claims[0].token)
    assert (lease["task_ids"], lease["open"]) == (tasks, 2)
    assert [claim.timeout for claim in claims] == [5, None]
    assert value(db, "select count(*) from peers.ready") == 0


def test_columns_that_are_the_same_for_all_tasks_have_one_element(db: Connection) -> None:
    """Attempts, kinds and priorities are short where they can be, and otherwise complete."""
    peer = Peer.join(db, "a", "b")
    same = "select attempts, kinds, priorities, timeouts, args from peers.claim(%s, 'default', 10)"
    nothing: dict[str, object] = {
        "attempts": [],
        "kinds": [],
        "priorities": [],
        "timeouts": None,
        "args": "[]",
    }
    assert row(db, same, peer.id) == nothing
    for _ in range(3):
        submit(db, args={"x": "y, []"})
    uniform = {"attempts": [1], "kinds": ["a"], "priorities": [100], "timeouts": None}
    assert row(db, same, peer.id) == uniform | {
        "args": '[{"x": "y, []"},{"x": "y, []"},{"x": "y, []"}]'
    }
    submit(db, "b", priority=5, timeout="1 min")
    submit(db, "a")
    mixed = {"attempts": [1], "kinds": ["b", "a"], "priorities": [5, 100], "timeouts": [60, None]}
    assert row(db, same, peer.id) == mixed | {"args": "[{},{}]"}


OBSTACLES = {
    "none": "select 1",
    "a stale row": "select peers.change(min(id), priority => -1) from peers.task",
    "large args": "update peers.task set args = args || jsonb_build_object("
    "'large', (select string_agg(sha256(n::text::bytea)::text, '') from generate_series(1, 50) n))"
    " where id = (select min(id) + 3 from peers.task)",
}


@pytest.mark.parametrize("kinds", ["a", "aab"])
@pytest.mark.parametrize("priorities", [[100], [100, 50, 70]])
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_each_task_comes_with_its_own_values_in_the_order_of_the_queue(
    db: Connection, kinds: str, priorities: list[int], obstacle: str
) -> None:
    """The values belong to the task, also when positions do not ascend with ids."""
    tasks = [
        submit(
            db,
            kinds[n % len(kinds)],
            priority=priorities[n % len(priorities)],
            args={"n": n},
            timeout=f"{n + 1} s",
        )
        for n in range(30)
    ]
    peer = Peer.join(db, *sorted(set(kinds)))
    for claim in sorted(peer.claim(20), key=lambda claim: claim.task_id * 7 % 11):
        if claim.task_id % 2:
            peer.fail(claim, retry_in=0)
        else:
            peer.release(claim)
    run(db, "set search_path = pg_catalog, peers, pg_temp")
    run(db, OBSTACLES[obstacle])
    expected = rows(
        db,
        "select t.id, t.kind, t.priority, t.attempt + 1 as attempt, t.args, t.timeout"
        " from peers.ready r join peers.task t on t.id = r.task_id and t.priority = r.priority"
        " order by r.priority, r.position",
    )
    claims = [*peer.claim(7), *peer.claim(50)]
    assert sorted(ids(claims)) == tasks
    found = [
        {
            "id": claim.task_id,
            "kind": claim.kind,
            "priority": claim.priority,
            "attempt": claim.attempt,
            "args": claim.args,
            "timeout": timedelta(seconds=claim.timeout or 0),
        }
        for claim in claims
    ]
    assert found == expected


def test_tokens_never_repeat(db: Connection, peer: Peer) -> None:
    """Every claim has a token of its own, also of the same task."""
    submit(db, max_attempts=50)
    tokens = set()
    for _ in range(20):
        [claim] = peer.claim()
        tokens.add(claim.token)
        peer.release(claim)
    assert len(tokens) == 20


def test_two_claimers_never_get_the_same_task(world: World) -> None:
    """Concurrent claims share the queue: every task goes to exactly one of them."""
    total, peers = 3000, [world.peer() for _ in range(4)]
    submit_many(world.db, "a", total)

    def take_all(peer: Peer) -> list[int]:
        taken: list[int] = []
        while claims := peer.claim(17):
            taken += ids(claims)
        return taken

    work: list[Future[list[int]]] = [world.background(take_all, peer) for peer in peers]
    taken = [result(each) for each in work]
    together = [task_id for each in taken for task_id in each]
    assert len(together) == len(set(together))
    remaining = peers[0].claim(10_000)  # a claim skips what another one holds at that moment
    assert len(together) + len(remaining) == total
    assert sum(1 for each in taken if each) > 1, "no two claimers met"


@pytest.mark.parametrize("kinds", [["a"], ["a", "b"]])
@pytest.mark.parametrize("max_tasks", [1, 2, 10])
def test_tasks_that_an_application_has_locked_are_passed_over(
    world: World, kinds: list[str], max_tasks: int
) -> None:
    """A locked head neither blocks a claim nor starves it, and keeps its place in the order."""
    tasks = [submit(world.db, kinds[number % len(kinds)]) for number in range(8)]
    application, peer = world.connect(), world.peer(*kinds)
    with application.transaction():
        run(application, "select from peers.task where id = any (%s) for update", tasks[:3])
        taken: list[int] = []
        while claims := peer.claim(max_tasks):
            taken += ids(claims)
        assert taken == tasks[3:]
    newcomer = submit(world.db)
    assert ids(peer.claim()) == [*tasks[:3], newcomer]


def test_rows_held_by_another_claim_do_not_starve(world: World) -> None:
    """While one claim is not committed, another takes what comes next."""
    tasks = submit_many(world.db, "a", 6)
    first, second = world.peer(), world.peer()
    with first.db.transaction():
        assert ids(first.claim(3)) == tasks[:3]
        assert ids(second.claim(2)) == tasks[3:5]
    assert ids(second.claim(10)) == tasks[5:]


def test_a_claim_that_is_rolled_back_takes_nothing(world: World) -> None:
    """The tasks of a claim that never committed are there for others, in their old order."""
    tasks = submit_many(world.db, "a", 3)
    first, second = world.peer(), world.peer()
    with first.db.transaction(force_rollback=True):
        first.claim()
    assert ids(second.claim()) == tasks


def leave_stale_rows(world: World, count: int) -> None:
    """Fill the table ready with rows of a task that is blocked."""
    parent, child = submit(world.db, "other"), submit(world.db, "a")
    edge = "insert into peers.dependency (parent_id, child_id) values (%s, %s)"
    run(world.db, edge, parent, child)
    run(world.db, "alter table peers.ready disable trigger all")
    rows = "insert into peers.ready (queue, kind, priority, task_id) select 'default', 'a', 100, %s"
    run(world.db, f"{rows} from generate_series(1, %s)", child, count)


def test_a_small_claim_gets_through_many_stale_rows(world: World) -> None:
    """20,000 stale rows lie before a task. Short claims of one drop them, keep what they did, and
    say that there may be more.
    """
    peer = world.peer("a")
    leave_stale_rows(world, 20_000)
    wanted = submit(world.db, "a")
    run(peer.db, "set statement_timeout = '10s'")  # a busy machine takes several
    query = "select task_ids, more from peers.claim(%s, 'default', 1)"
    calls = 1
    while not (answer := row(peer.db, query, peer.id))["task_ids"]:
        assert answer["more"]
        calls += 1
    assert answer["task_ids"] == [wanted]
    assert 1 < calls < 100
    assert value(world.db, "select count(*) from peers.ready where kind = 'a'") == 0


def test_a_claim_of_one_passes_a_thousand_stale_rows_in_few_passes(world: World) -> None:
    """However few tasks are wanted, a pass looks at many rows once it has met stale ones."""
    peer = world.peer("a")
    leave_stale_rows(world, 1_001)
    wanted = submit(world.db, "a")
    run(peer.db, "set track_functions = 'all'")
    with peer.db.transaction():
        assert ids(peer.claim(1)) == [wanted]
        passes = "select calls from pg_stat_xact_user_functions where funcname = '_read_ready'"
        assert 1 <= value(peer.db, passes) < 10


def test_stale_rows_are_dropped_by_the_claim_that_meets_them(world: World) -> None:
    """Cancelled and blocked tasks leave rows; a claim drops them and fills up with others."""
    cancelled, held, parent, good = (submit(world.db) for _ in range(4))
    run(world.db, "select peers.cancel(%s)", cancelled)
    edge = "insert into peers.dependency (parent_id, child_id) values (%s, %s)"
    run(world.db, edge, parent, held)
    assert value(world.db, "select count(*) from peers.ready") == 4
    peer = world.peer()
    assert ids(peer.claim(2)) == [parent, good]
    assert value(world.db, "select count(*) from peers.ready") == 0
    assert states(world.db, cancelled, held) == ["cancelled", "blocked"]


def test_a_task_with_two_rows_is_claimed_once(world: World) -> None:
    """A task that was held back and released, or changed twice, has one lease whatever its rows."""
    parent = submit(world.db)
    child = submit(world.db, depends_on=[parent])
    changed = submit(world.db)
    for priority in (50, 100, 50, 100):
        run(world.db, "select peers.change(%s, priority => %s)", changed, priority)
    peer = world.peer()
    [claim] = peer.claim(1)
    peer.complete(claim)
    found = peer.claim(10)
    assert sorted(ids(found)) == sorted([child, changed])
    assert peer.complete(*found) == {}
    assert value(world.db, "select count(*) from peers.ready") == 0


def test_a_changed_priority_is_honoured(world: World) -> None:
    """The order follows the task's priority now, not that at its submission."""
    first, second, third = (submit(world.db) for _ in range(3))
    run(world.db, "select peers.change(%s, priority => 1)", third)
    run(world.db, "select peers.change(%s, priority => 500)", first)
    assert ids(world.peer().claim()) == [third, second, first]


def test_a_row_with_an_old_priority_is_stale_beside_other_priorities(world: World) -> None:
    """A claim of several priorities compares that of each task, also without the newer row."""
    urgent, changed, third = submit(world.db, priority=1), submit(world.db), submit(world.db)
    run(world.db, "select peers.change(%s, priority => 500)", changed)
    assert ids(world.peer().claim(2)) == [urgent, third]


@pytest.mark.parametrize("other_kinds", [[], ["b", "c"]])
def test_a_heap_of_tasks_that_nobody_can_run_lies_beside_the_path(
    world: World, other_kinds: list[str]
) -> None:
    """300,000 more urgent tasks of a foreign kind do not add to the pages that a claim reads."""
    peer = world.peer("a", *other_kinds)
    run(world.db, "alter table peers.ready disable trigger all")

    def pages_of_a_claim() -> int:
        submit_many(world.db, "a", 5)
        before = _pages_read(peer.db)
        assert len(peer.claim(5)) == 5
        return _pages_read(peer.db) - before

    pages_of_a_claim()  # plans and catalogs are cached now
    alone = pages_of_a_claim()
    assert alone > 0
    run(
        world.db,
        "insert into peers.ready (queue, kind, priority, task_id)"
        " select 'default', 'foreign', 1, n from generate_series(1, 300000) n",
    )
    run(world.db, "analyze peers.ready")
    assert pages_of_a_claim() <= alone + 60
    assert value(world.db, "select count(*) from peers.ready") == 300_000


def _pages_read(db: Connection) -> int:
    run(db, "select pg_stat_force_next_flush()")
    pages: int = value(
        db,
        "select heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read"
        " from pg_statio_user_tables where relid = 'peers.ready'::regclass",
    )
    return pages


def test_a_peer_of_another_contract_version_may_not_join(db: Connection) -> None:
    """Old and new peers do not mix unawares."""
    with pytest.raises(psycopg.DatabaseError, match="contract version 999") as refused:
        run(db, "select peers.join('h', 1, '{}', '[]', '30 s', 999)")
    assert refused.value.sqlstate == "PE006"


@pytest.mark.parametrize("numbers", [100, 8000])
def test_args_too_large_to_be_sent_cost_only_their_task(world: World, numbers: int) -> None:
    """Args that were inserted past the triggers make a dead letter that says so; all others run."""
    db, before, after = world.db, submit(world.db), None
    with db.transaction():
        run(db, "set local session_replication_role = replica")
        wide = value(
            db,
            "insert into peers.task (kind, args) values ('a', %s) returning id",
            '{"n": [' + ",".join(["1e131071"] * numbers) + "]}",
        )
        query = "insert into peers.ready (queue, kind, priority, task_id) select queue, kind,"
        run(db, f"{query} priority, id from peers.task where id = %s", wide)
    after = submit(db)
    peer = world.peer()
    assert ids(peer.claim()) == [before, after]
    letter = row(db, "select task_id, error_type, error_message, args from peers.dead_letter")
    assert (letter["task_id"], letter["error_type"]) == (wide, "ArgsInvalid")
    assert "exceed 1 MiB" in letter["error_message"]
    run(db, "select peers.retry(%s, '{}')", wide)
    assert ids(peer.claim()) == [wide]
