"""Outcomes: recorded exactly once, and only from the peer that holds the lease under the token."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.world import (
    Peer,
    World,
    advance,
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

MEBIBYTE = 1 << 20


def test_a_result_is_kept(db: Connection, peer: Peer) -> None:
    """A completed task has its result and its end; nothing of the lease is left."""
    task_id = submit(db)
    [claim] = peer.claim()
    assert peer.complete(claim, result={"pages": 3}) == {}
    task = row(db, "select * from peers.task where id = %s", task_id)
    assert (task["state"], task["result"], task["attempt"]) == ("completed", {"pages": 3}, 1)
    assert task["finished_at"] >= task["started_at"]
    assert value(db, "select count(*) from peers.lease") == 0
    assert problems(db) == []


@pytest.mark.parametrize("result", [None, 0, "", [], False, {"a": None}])
def test_any_json_is_a_result(db: Connection, peer: Peer, result: object) -> None:
    """What the handler returned is read back as it was; nothing is null."""
    submit(db)
    peer.complete(*peer.claim(), result=result)
    assert value(db, "select result from peers.task") == result
    assert value(db, "select result is null from peers.task") is (result is None)


def test_each_task_of_a_batch_gets_its_own_result(db: Connection, peer: Peer) -> None:
    """A batch does not mix results up."""
    for _ in range(50):
        submit(db)
    claims = [*reversed(peer.claim())]
    ids = [claim.task_id for claim in claims]
    doubles: list[object] = [task_id * 2 for task_id in ids]
    assert peer.complete_each(ids, [claims[0].token], doubles) == {}
    assert value(db, "select count(*) from peers.task where result = to_jsonb(id * 2)") == 50


def test_an_id_that_names_no_attempt_costs_only_itself(db: Connection, peer: Peer) -> None:
    """Null, an unknown task and a task that has ended do not shift the results of the others."""
    for _ in range(5):
        submit(db)
    claims = peer.claim()
    token, ids = claims[0].token, [claim.task_id for claim in claims]
    peer.complete(claims[2], result=ids[2] * 2)
    reported: list[int | None] = [ids[0], 0, *ids[1:3], ids[3], None, ids[4]]
    for order in (sorted(reported, key=lambda each: each or 10**9), reported):
        results = json.dumps([each and each * 2 for each in order])
        query = "select * from peers.complete(%s, %s::uuid[], %s::bigint[], %s::jsonb)"
        run(db, query, peer.id, [token], order, results)
    assert value(db, "select count(*) from peers.task where result = to_jsonb(id * 2)") == 5
    assert problems(db) == []


def test_a_second_report_of_the_same_outcome_changes_nothing(db: Connection, peer: Peer) -> None:
    """A peer that does not know whether its commit arrived may ask again."""
    submit(db)
    submit(db, max_attempts=9)
    [one, two] = peer.claim()
    peer.complete(one, result=1)
    peer.fail(two)
    assert peer.complete(one, result=2) == {one.pair: "already"}
    assert peer.fail(two) == {two.pair: "already"}
    assert value(db, "select result from peers.task where id = %s", one.task_id) == 1
    assert value(db, "select count(*) from peers.failure") == 1


def test_the_same_outcome_twice_in_a_batch_is_recorded_once(db: Connection, peer: Peer) -> None:
    """Repeating a pair within a batch has no effect."""
    submit(db)
    submit(db)
    [one, two] = peer.claim()
    assert set(peer.complete(one, one).values()) <= {"already"}
    assert set(peer.fail(two, two).values()) <= {"already"}
    assert value(db, "select count(*) from peers.failure") == 1


def test_an_older_lease_of_the_same_task_is_stale(db: Connection, peer: Peer) -> None:
    """After a task was claimed again, the outcome of its former lease is void."""
    submit(db)
    [former] = peer.claim()
    peer.release(former)
    [current] = peer.claim()
    for verb in (peer.complete, peer.fail):
        assert verb(former) == {former.pair: "stale"}
    assert state(db, former.task_id) == "running"
    assert peer.complete(current) == {}


def test_the_pair_counts_not_its_halves(db: Connection, peer: Peer) -> None:
    """A right token with another task, and a right task with another token, are both stale."""
    for _ in range(2):
        submit(db)
    [one], [two] = peer.claim(1), peer.claim(1)
    crossed = [(one.task_id, two.token), (two.task_id, one.token)]
    unknown = (one.task_id, unknown_token())
    nowhere = (999_999, one.token)
    expected = dict.fromkeys([*crossed, unknown, nowhere], "stale")
    assert peer.complete(*expected) == expected
    assert peer.fail(*expected) == expected
    assert states(db, one.task_id, two.task_id) == ["running", "running"]


@pytest.mark.parametrize("verb", ["complete", "fail"])
def test_a_wrong_pair_beside_the_right_one_is_told(db: Connection, peer: Peer, verb: str) -> None:
    """A batch with two tokens for a task records the right one and reports the other as stale."""
    submit(db)
    [claim] = peer.claim()
    wrong = (claim.task_id, unknown_token())
    assert getattr(peer, verb)(wrong, claim) == {wrong: "stale"}
    assert state(db, claim.task_id) == ("completed" if verb == "complete" else "scheduled")


def test_another_peer_cannot_settle(world: World) -> None:
    """A token that leaked is of no use to another peer."""
    submit(world.db)
    owner, thief = world.peer(), world.peer()
    [claim] = owner.claim()
    assert thief.complete(claim) == {claim.pair: "stale"}
    assert thief.fail(claim) == {claim.pair: "stale"}
    assert owner.complete(claim) == {}


def test_good_outcomes_of_a_batch_count_beside_bad_ones(db: Connection, peer: Peer) -> None:
    """One stale pair costs only itself."""
    for _ in range(3):
        submit(db)
    one, two, three = peer.claim()
    peer.release(two)
    assert peer.complete(one, two, three) == {two.pair: "stale"}
    expected = ["completed", "ready", "completed"]
    assert states(db, one.task_id, two.task_id, three.task_id) == expected


def test_a_task_that_somebody_has_locked_is_busy(world: World) -> None:
    """An outcome never waits for an application's transaction: busy now, recorded later."""
    locked, free = submit(world.db), submit(world.db)
    peer, application = world.peer(), world.connect()
    claims = {claim.task_id: claim for claim in peer.claim()}
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", locked)
        assert peer.complete(*claims.values()) == {claims[locked].pair: "busy"}
        assert peer.fail(claims[locked]) == {claims[locked].pair: "busy"}
        assert peer.release(claims[locked]) == {claims[locked].pair: "busy"}
    assert states(world.db, locked, free) == ["running", "completed"]
    assert peer.complete(claims[locked]) == {}


def test_a_locked_child_makes_its_parents_busy_and_no_others(world: World) -> None:
    """A session that locks a child delays only the outcomes of that child's parents."""
    parent, other = submit(world.db), submit(world.db)
    child = submit(world.db, depends_on=[parent])
    free = submit(world.db, depends_on=[other])
    peer, application = world.peer(), world.connect()
    claims = {claim.task_id: claim for claim in peer.claim()}
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", child)
        assert peer.complete(*claims.values()) == {claims[parent].pair: "busy"}
    assert states(world.db, parent, other, child, free) == [
        "running",
        "completed",
        "blocked",
        "ready",
    ]
    assert peer.complete(claims[parent]) == {}
    assert state(world.db, child) == "ready"


def test_many_locked_outcomes_take_no_more_time_than_one_call_has(world: World) -> None:
    """A batch of failures is busy for a bounded time, and what is not locked makes progress."""
    count, free = 3000, 1000
    run(
        world.db,
        "insert into peers.task (kind, max_attempts)"
        " select case when n <= %s then 'a' else 'b' end, 1 from generate_series(1, %s) n",
        count,
        count + 1,
    )
    child = value(world.db, "select max(id) from peers.task")
    run(
        world.db,
        "insert into peers.dependency (parent_id, child_id, on_parent_failure)"
        " select id, %s, 'run' from peers.task where kind = 'a' order by id limit %s",
        child,
        count - free,
    )
    peer, application = world.peer(), world.connect()
    claims = peer.claim(1000) + peer.claim(1000) + peer.claim(1000)
    with application.transaction():
        run(application, "select from peers.task where id = %s for update", child)
        run(peer.db, "set statement_timeout = '2.5 s'")  # each try takes more than 1 ms
        for _ in range(200):
            verdicts = peer.fail(*claims)
            assert set(verdicts.values()) == {"busy"}
            claims = [claim for claim in claims if claim.pair in verdicts]
            if len(claims) < count:
                break
        assert count - free <= len(claims) < count
    run(peer.db, "set statement_timeout = '60 s'")
    assert peer.fail(*claims) == {}
    assert problems(world.db) == []


def test_a_result_over_1_mib_is_sent_back(db: Connection, peer: Peer) -> None:
    """Too large a result is not recorded and not cut; the rest of its batch is."""
    for _ in range(2):
        submit(db)
    large, small = peer.claim()
    results: list[object] = ["x" * (MEBIBYTE - 1), "x" * (MEBIBYTE - 2)]
    found = peer.complete_each([large.task_id, small.task_id], [large.token], results)
    assert found == {large.pair: "too large"}
    assert states(db, large.task_id, small.task_id) == ["running", "completed"]
    assert peer.fail(large) == {}


WIDE = {
    "9 numbers in 150 bytes": "[" + ",".join(["1e131071"] * 9) + "]",
    "8,000 numbers, 1 GB of text": "[" + ",".join(["1e131071"] * 8000) + "]",
    "170,000 numbers that any handler can return": "[" + ",".join(["1e308"] * 170_000) + "]",
    "text over 1 MiB": json.dumps("x" * MEBIBYTE),
}


@pytest.mark.parametrize("case", WIDE)
def test_a_result_is_measured_as_it_is_written(db: Connection, peer: Peer, case: str) -> None:
    """However few bytes a result takes in storage, its text counts; the rest of its batch stays."""
    for _ in range(3):
        submit(db)
    wide, other, plain = peer.claim()
    results = f'[{{"n": 1}}, {WIDE[case]}, null]'
    ids = [other.task_id, wide.task_id, plain.task_id]
    query = "select * from peers.complete(%s, %s, %s::bigint[], %s)"
    [verdict] = rows(db, query, peer.id, [wide.token], ids, results)
    assert (verdict["task_id"], verdict["token"], verdict["verdict"]) == (*wide.pair, "too large")
    expected = ["running", "completed", "completed"]
    assert states(db, wide.task_id, other.task_id, plain.task_id) == expected


def test_a_result_too_large_to_be_sent_is_refused_to_its_children(
    db: Connection, peer: Peer
) -> None:
    """A result that was put there past the verbs is not taken for null, and named."""
    parent, other = submit(db), submit(db)
    child, free = submit(db, depends_on=[parent, other]), submit(db, depends_on=[other])
    peer.complete(*peer.claim(), result=1)
    with db.transaction():
        run(db, "set local session_replication_role = replica")
        case = WIDE["8,000 numbers, 1 GB of text"]
        run(db, "update peers.task set result = %s::jsonb where id = %s", case, parent)
    query = "select parent_id, result from peers.parent_results(%s)"
    with pytest.raises(psycopg.DatabaseError, match=f"the result of parent {parent}") as refused:
        run(db, query, child)
    assert refused.value.sqlstate == "PE009"
    assert rows(db, query, free) == [{"parent_id": other, "result": 1}]


def test_an_empty_batch_is_nothing(db: Connection, peer: Peer) -> None:
    """No outcomes, no verdicts, no error."""
    assert (peer.complete(), peer.fail(), peer.release()) == ({}, {}, {})
    assert value(db, "select count(*) from peers.task") == 0


def test_a_failure_keeps_all_that_is_known(db: Connection, peer: Peer) -> None:
    """Every field of a report can be read in SQL."""
    submit(db)
    [claim] = peer.claim()
    report: dict[str, Any] = {
        "error_type": "ValueError",
        "error_message": "no such page: 'é'",
        "traceback": "line 1\nline 2",
        "exit_signal": "SIGSEGV",
        "exit_code": 3,
    }
    peer.fail(claim, **report)
    failure = row(db, "select * from peers.failure")
    assert {name: failure[name] for name in report} == report
    assert (failure["peer_id"], failure["host"], failure["pid"]) == (peer.id, "host-a", 4711)
    assert failure["started_at"] <= failure["failed_at"] <= failure["retry_at"]


@pytest.mark.usefixtures("_stopped_clock")
def test_a_failed_task_waits_for_its_backoff_and_runs_again(db: Connection, peer: Peer) -> None:
    """The next attempt comes after retry_at, not before."""
    task_id = submit(db)
    peer.fail(*peer.claim(), retry_in=100)
    assert state(db, task_id) == "scheduled"
    advance(db, "99 s")
    peer.heartbeat()
    assert (promote(db), peer.claim()) == (0, [])
    advance(db, "2 s")
    assert promote(db) == 1
    [again] = peer.claim()
    assert again.attempt == 2


def test_retry_in_zero_is_at_once(db: Connection, peer: Peer) -> None:
    """A handler may ask to be tried again without a wait."""
    submit(db)
    peer.fail(*peer.claim(), retry_in=0)
    assert [claim.attempt for claim in peer.claim()] == [2]


def test_backoff_never_raises(db: Connection) -> None:
    """Whatever it is given, it answers a wait from 0 to 365 days."""
    spans = ["1 s", "-1 s", "0", "100000000 years", "-100000000 years", "1 month", None]
    if db.info.server_version >= 170_000:
        spans += ["infinity", "-infinity"]
    outside = rows(
        db,
        "select * from unnest(%s::interval[]) base, unnest(%s::interval[]) cap,"
        " unnest(array[-2147483648, 0, 1, 2147483647, null]) attempt,"
        " unnest(array[0.5, -1, 'NaN', 'Infinity', '-Infinity', null]) luck,"
        " lateral peers.backoff(attempt, base, cap, luck) wait"
        " where (wait between interval '0' and interval '365 days') is not true",
        spans,
        spans,
    )
    assert outside == []


@pytest.mark.parametrize("retry_in", [1e300, -5, "NaN", "Infinity", "-Infinity", "1e1000"])
def test_an_absurd_retry_in_does_not_cost_the_batch(
    db: Connection, peer: Peer, retry_in: object
) -> None:
    """One odd report neither rolls the batch back nor loses its task."""
    odd, even = submit(db), submit(db)
    claims = peer.claim()
    batch = [
        {"task_id": claim.task_id, "token": str(claim.token), "error_type": "Oops"}
        | ({"retry_in": retry_in} if claim.task_id == odd else {})
        for claim in claims
    ]
    found = rows(db, "select * from peers.fail(%s, %s)", peer.id, json.dumps(batch))
    assert [each["verdict"] for each in found] == ["retried", "retried"]
    assert state(db, odd) in ("scheduled", "ready")
    assert state(db, even) == "scheduled"


def test_attempts_run_out_into_a_dead_letter(db: Connection, peer: Peer) -> None:
    """The last attempt's failure is the end; all failures are kept."""
    task_id = submit(db, max_attempts=3)
    for number in (1, 2, 3):
        [claim] = peer.claim()
        assert claim.attempt == number
        peer.fail(claim, retry_in=0, error_message=f"try {number}")
    assert (state(db, task_id), peer.claim()) == ("dead", [])
    letter = row(db, "select * from peers.dead_letter")
    assert (letter["attempts"], letter["error_message"]) == (3, "try 3")
    assert [each["error_message"] for each in letter["failures"]] == ["try 1", "try 2", "try 3"]


def test_a_snoozed_task_runs_later_and_no_attempt_counts(db: Connection, peer: Peer) -> None:
    """However often, on its last attempt too; it leaves no failure, and explain says why."""
    task_id = submit(db, max_attempts=2)
    peer.fail(*peer.claim(), retry_in=0)
    for _ in range(5):
        [claim] = peer.claim()
        assert claim.attempt == 2
        assert peer.fail(claim, snooze=True, retry_in=5, error_message="no paper.") == {}
        assert peer.claim() == []
        assert value(db, "select attempt from peers.task where id = %s", task_id) == 1
        said = value(db, "select peers.explain(%s)", task_id)
        assert "snoozed by its handler" in said
        assert "no paper. That attempt does not count." in said
        advance(db, "6 s")
        peer.heartbeat()
        promote(db)
    assert value(db, "select count(*) from peers.failure where task_id = %s", task_id) == 1
    assert problems(db) == []


def test_a_snooze_of_a_task_that_is_to_stop_ends_it(db: Connection, peer: Peer) -> None:
    """It does not come back later."""
    task_id = submit(db)
    [claim] = peer.claim()
    run(db, "select peers.cancel(%s)", task_id)
    assert peer.fail(claim, snooze=True, retry_in=60) == {}
    ended = row(db, "select state, attempt, stopped_because from peers.task where id = %s", task_id)
    assert (ended["state"], ended["attempt"]) == ("cancelled", 1)
    assert "snoozed" not in (ended["stopped_because"] or "")
    assert problems(db) == []


def test_reject_is_dead_at_once(db: Connection, peer: Peer) -> None:
    """A handler that knows better ends the task in its first attempt."""
    task_id = submit(db, max_attempts=10)
    peer.fail(*peer.claim(), reject=True, error_type="Reject")
    assert state(db, task_id) == "dead"
    assert row(db, "select * from peers.dead_letter")["error_type"] == "Reject"


@pytest.mark.parametrize(
    ("task", "kind", "expected"), [(2, 7, 2), (None, 3, 3), (None, None, 5), (7, 2, 7)]
)
def test_max_attempts_task_before_kind_before_five(
    world: World, task: int | None, kind: int | None, expected: int
) -> None:
    """The task's own max_attempts holds, else its kind's, else 5; for plain SQL submitters too."""
    policy: dict[str, object] = {"kind": "a"} | ({"max_attempts": kind} if kind else {})
    run(world.db, "insert into peers.task (kind, max_attempts) values ('a', %s)", task)
    peer = world.peer(policies=[policy])
    failures = 0
    while claims := peer.claim():
        failures += 1
        peer.fail(*claims, retry_in=0)
    assert failures == expected


@pytest.mark.parametrize("attempt", [1, 2, 5, 12, 1000])
def test_backoff_is_full_jitter_under_a_doubling_bound(db: Connection, attempt: int) -> None:
    """Waits spread evenly from 0 to base * 2^(attempt - 1), and never beyond the cap."""
    cap, base = 3600.0, 2.0
    waits = row(
        db,
        "select min(w), max(w), avg(w), count(distinct w) from ("
        " select extract(epoch from peers.backoff(%s, '2 s', '1 hour'))::float8 as w"
        " from generate_series(1, 4000)) s",
        attempt,
    )
    bound = min(cap, base * 2.0 ** min(attempt - 1, 60))
    assert 0 <= waits["min"] < bound * 0.02
    assert bound * 0.98 < waits["max"] <= bound
    assert bound * 0.45 < waits["avg"] < bound * 0.55
    assert waits["count"] > 3000


def test_a_failure_follows_the_policy_of_its_kind(world: World) -> None:
    """The waits of a kind obey what its handler declared."""
    peer = world.peer(policies=[{"kind": "a", "backoff_base": "9 s", "backoff_cap": "10 s"}])
    for _ in range(50):
        submit(world.db)
    peer.fail(*peer.claim())
    waits = row(
        world.db,
        "select min(retry_at - failed_at) >= interval '0' as low,"
        " max(retry_at - failed_at) <= interval '10 s' as high,"
        " count(distinct retry_at) > 40 as spread from peers.failure",
    )
    assert waits == {"low": True, "high": True, "spread": True}


def test_a_policy_that_changes_counts_for_running_attempts(world: World) -> None:
    """What handlers declare is read when an attempt fails, not when it was claimed."""
    for _ in range(2):
        submit(world.db)
    peer = world.peer()
    before, after = peer.claim()
    assert peer.fail(before) == {}
    world.peer(policies=[{"kind": "a", "max_attempts": 1}])
    assert peer.fail(after) == {}
    assert states(world.db, before.task_id, after.task_id) == ["scheduled", "dead"]


@pytest.mark.parametrize("verb", ["complete", "fail", "release"])
def test_a_batch_that_is_refused_leaves_no_half_state(
    db: Connection, peer: Peer, verb: str
) -> None:
    """If an application's trigger raises for one outcome of a batch, none is recorded."""
    for _ in range(3):
        submit(db)
    claims = peer.claim()
    run(db, "update peers.task set metadata = '{\"odd\": 1}' where id = %s", claims[1].task_id)
    run(
        db,
        "create function pg_temp.object() returns trigger language plpgsql as"
        " $$ begin raise exception 'the application objects'; end $$;"
        " create trigger object before update on peers.task for each row"
        " when (old.metadata ? 'odd') execute function pg_temp.object()",
    )
    with pytest.raises(psycopg.errors.RaiseException, match="the application objects"):
        getattr(peer, verb)(*claims)
    assert states(db, *(claim.task_id for claim in claims)) == ["running"] * 3
    assert value(db, "select sum(open) from peers.lease") == 3
    assert value(db, "select count(*) from peers.failure") == 0
    for claim in (claims[0], claims[2]):
        assert getattr(peer, verb)(claim) == {}
    run(db, "drop trigger object on peers.task")
    assert getattr(peer, verb)(claims[1]) == {}
    assert problems(db) == []


def test_a_batch_without_ids_is_refused_or_told(db: Connection, peer: Peer) -> None:
    """A report that names no task records nothing."""
    submit(db)
    [claim] = peer.claim()
    nameless = json.dumps([{"token": str(claim.token)}, {"task_id": claim.task_id}, {}])
    run(db, "select * from peers.fail(%s, %s)", peer.id, nameless)
    run(
        db,
        "select * from peers.complete(%s, array[%s]::uuid[], '{null}', '[1]')",
        peer.id,
        claim.token,
    )
    run(db, "select * from peers.complete(%s, '{null}', array[%s], '[1]')", peer.id, claim.task_id)
    assert state(db, claim.task_id) == "running"
    assert peer.complete(claim) == {}
