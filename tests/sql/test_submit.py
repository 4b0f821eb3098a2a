"""Submission: INSERT, COPY and submit are the same thing, and nothing can be forged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.world import (
    Peer,
    World,
    advance,
    column,
    promote,
    refusal,
    result,
    row,
    rows,
    run,
    state,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection

MEBIBYTE = 1 << 20


def test_a_plain_insert_is_all_it_takes(db: Connection, peer: Peer) -> None:
    """A row of kind and args is a ready task with the documented defaults, and a peer gets it."""
    task_id = value(
        db, """insert into peers.task (kind, args) values ('a', '{"x": 1}') returning id"""
    )
    task = row(db, "select * from peers.task where id = %s", task_id)
    assert task["state"] == "ready"
    assert (task["queue"], task["priority"], task["attempt"]) == ("default", 100, 0)
    assert (task["max_attempts"], task["timeout"], task["pending_parents"]) == (None, None, 0)
    assert task["submitter"] == value(db, "select session_user::text")
    [claim] = peer.claim()
    assert (claim.task_id, claim.args, claim.attempt) == (task_id, {"x": 1}, 1)


def test_nothing_is_submitted_before_the_commit(
    world: World, peer: Peer, connect: Callable[[], Connection]
) -> None:
    """A task belongs to the caller's transaction: claimed after a commit, or never."""
    application = connect()
    with application.transaction():
        submit(application)
        assert peer.claim() == []
    assert len(peer.claim()) == 1
    with application.transaction(force_rollback=True):
        submit(application)
    assert peer.claim() == []
    assert value(world.db, "select count(*) from peers.task") == 1


def test_copy_submits_in_the_order_of_its_lines(db: Connection, peer: Peer) -> None:
    """COPY is the fast way in: every line becomes a task, claimed in the order of the lines."""
    with db.cursor().copy("copy peers.task (kind, args) from stdin") as copy:
        for number in range(1000):
            copy.write_row(("a", f'{{"n": {number}}}'))
    assert [claim.args["n"] for claim in peer.claim(1000)] == list(range(1000))


def test_submit_gives_every_field(db: Connection) -> None:
    """What submit is told is what the row says."""
    task_id = submit(
        db,
        "reports.render",
        args={"day": "2026-11-23"},
        queue="media",
        priority=7,
        max_attempts=3,
        timeout="90 s",
        idempotency_key="once",
        metadata='{"team": "x"}',
    )
    task = row(db, "select * from peers.task where id = %s", task_id)
    assert task["kind"] == "reports.render"
    assert (task["args"], task["metadata"]) == ({"day": "2026-11-23"}, {"team": "x"})
    assert (task["queue"], task["priority"], task["max_attempts"]) == ("media", 7, 3)
    assert (task["timeout"].total_seconds(), task["idempotency_key"]) == (90, "once")


def test_nulls_for_submit_mean_the_defaults(db: Connection) -> None:
    """A caller that passes null for what it does not know gets what a plain INSERT gets."""
    task_id = value(
        db,
        "select peers.submit('a', null, null, null, null, null, null, null, null, null, null)",
    )
    task = row(db, "select * from peers.task where id = %s", task_id)
    assert (task["args"], task["queue"], task["priority"], task["state"]) == (
        {},
        "default",
        100,
        "ready",
    )


def test_a_later_task_waits_for_its_time(db: Connection, peer: Peer) -> None:
    """A task for later is scheduled, claimed by nobody before, and promoted when due."""
    task_id = value(
        db,
        "insert into peers.task (kind, scheduled_at) values ('a', now() + interval '1 hour')"
        " returning id",
    )
    assert state(db, task_id) == "scheduled"
    assert (peer.claim(), promote(db)) == ([], 0)
    advance(db, "1 hour 1 second")
    peer.heartbeat()
    assert promote(db) == 1
    assert [claim.task_id for claim in peer.claim()] == [task_id]
    assert promote(db) == 0


def test_an_insert_rings_the_doorbell_once(
    db: Connection, connect: Callable[[], Connection]
) -> None:
    """Many inserts in a transaction send one empty notification, later tasks send none."""
    listener = connect()
    listener.execute("listen peers")
    with db.transaction():
        for _ in range(5):
            submit(db)
    [bell] = listener.notifies(timeout=10, stop_after=1)
    assert bell.payload == ""
    assert list(listener.notifies(timeout=0)) == []
    value(db, "select peers.submit('a', scheduled_at => now() + interval '1 day')")
    run(db, "notify peers, 'end'")
    assert [bell.payload for bell in listener.notifies(timeout=10, stop_after=1)] == ["end"]


FORGED = {
    "state": "'completed'",
    "pending_parents": "0 + 1",
    "attempt": "3",
    "submitter": "'somebody'",
    "created_at": "'2001-01-01'",
    "created_xid": "'1'",
    "started_at": "now()",
    "finished_at": "now()",
    "token": "gen_random_uuid()",
    "result": "'{}'",
}


def test_the_owner_forges_nothing(db: Connection) -> None:
    """What the scheduler keeps cannot be inserted, not even by the owner; nothing stays."""
    for field, forged in FORGED.items():
        statement = f"insert into peers.task (kind, {field}) values ('a', {forged})"
        sqlstate, words = refusal(db, statement)
        assert sqlstate == "PE009", statement
        assert field in words
    assert value(db, "select count(*) from peers.task") == 0
    assert value(db, "select count(*) from peers.ready") == 0


def test_a_submitter_forges_nothing(db: Connection) -> None:
    """The submitter's role has no right on what the scheduler keeps."""
    run(db, "set role peers_submitter")
    for field, forged in {**FORGED, "id": "5"}.items():
        columns = f"insert into peers.task (kind, {field}) overriding system value"
        assert refusal(db, f"{columns} values ('a', {forged})")[0] == "42501", field


def test_one_forged_row_refuses_its_whole_statement(db: Connection) -> None:
    """A batch with one forged row leaves nothing at all."""
    with pytest.raises(psycopg.DatabaseError) as refused:
        run(
            db,
            "insert into peers.task (kind, attempt)"
            " select 'a', n % 100 / 99 from generate_series(1, 100) n",
        )
    assert refused.value.sqlstate == "PE009"
    assert value(db, "select count(*) from peers.task") == 0


LARGE_ONLY_AS_TEXT = {
    "few large numbers": """('{"x": [1' || repeat(', 1e131071', 8) || ']}')::jsonb""",
    "many large numbers": """('{"x": [1' || repeat(', 1e131071', 100000) || ']}')::jsonb""",
    "negative numbers": """('{"x": [1' || repeat(', -1e131000', 9000) || ']}')::jsonb""",
    "many small numbers": """('{"x": [1' || repeat(', 1e-16383', 100000) || ']}')::jsonb""",
    "zeros after the point": """('{"x": [1' || repeat(', 0.' || repeat('0', 16000), 70)
                                || ']}')::jsonb""",
    "numbers deep inside": """('{"x": ' || repeat('[[[1e131071], {"y": ', 8) || '1'
                              || repeat('}]]', 8) || '}')::jsonb""",
    "control characters": "jsonb_build_object('x', repeat(e'\\x01', 180000))",
    "quotes as a name": "jsonb_build_object(repeat('\"', 600000), 1)",
    "too deep to look through": "('{\"x\": ' || repeat('[', 12000) || repeat(']', 12000)"
    " || '}')::jsonb",
}
MALFORMED = {
    "args is an array": ("args", "'[]'", "object"),
    "args is null": ("args", "'null'", "object"),
    "args too large": ("args", f"jsonb_build_object('x', repeat('x', {MEBIBYTE}))", "1 MiB"),
    "args wide characters": (
        "args",
        f"jsonb_build_object('x', repeat('ä', {MEBIBYTE // 2}))",
        "1 MiB",
    ),
    **{
        f"{field} {case}": (field, value, "1000 levels" if "deep to" in case else "1 MiB")
        for field in ("args", "metadata")
        for case, value in LARGE_ONLY_AS_TEXT.items()
    },
    "metadata is a number": ("metadata", "'7'", "object"),
    "metadata too large": (
        "metadata",
        f"jsonb_build_object('x', repeat('x', {MEBIBYTE}))",
        "1 MiB",
    ),
    "no kind": ("kind", "''", "1 to 200 characters"),
    "long kind": ("kind", "repeat('k', 201)", "200 characters"),
    "no queue": ("queue", "''", "1 to 200 characters"),
    "long queue": ("queue", "repeat('q', 201)", "not 201"),
    "no attempts": ("max_attempts", "0::smallint", "1 to 1000, not 0"),
    "many attempts": ("max_attempts", "1001::smallint", "1 to 1000, not 1001"),
    "no timeout": ("timeout", "interval '0'", "1 millisecond to 30 days"),
    "negative timeout": ("timeout", "interval '-1 s'", "1 millisecond to 30 days"),
    "long timeout": ("timeout", "interval '31 days'", "1 millisecond to 30 days"),
    "timeout of months": ("timeout", "interval '1 month'", "days or smaller"),
    "timeout of huge parts": (
        "timeout",
        "interval '1000000 months -30000000 days 1 s'",
        "days or smaller units",
    ),
    "timeout with a part below 0": ("timeout", "interval '10 days -1 s'", "not negative"),
    "never": ("scheduled_at", "'infinity'::timestamptz", "years 1900 and 9000"),
    "for ever": ("scheduled_at", "'-infinity'::timestamptz", "years 1900 and 9000"),
    "before the common era": ("scheduled_at", "'4000-01-01 BC'::timestamptz", "1900 and 9000"),
    "a far future": ("scheduled_at", "'20000-01-01'::timestamptz", "1900 and 9000"),
    "kind of two lines": ("kind", "e'a\\nb'", "control characters"),
    "kind that rings": ("kind", "e'a\\x07'", "control characters"),
    "queue that escapes": ("queue", "e'\\x1b[2J'", "control characters"),
    "key with a tab": ("idempotency_key", "e'a\\tb'", "control characters"),
    "no key": ("idempotency_key", "''", "1 to 500 characters"),
    "long key": ("idempotency_key", "repeat('k', 501)", "not 501"),
}


CHANGEABLE = ("args", "timeout", "scheduled_at")


@pytest.mark.parametrize("way", ["insert", "submit"])
def test_what_is_malformed_is_refused_by_name(db: Connection, way: str) -> None:
    """The refusal names the field and its bound, and nothing is stored."""
    for case, (field, wrong, bound) in MALFORMED.items():
        values = {"kind": "'a'"} | {field: wrong}
        if way == "insert":
            fields, given = ", ".join(values), ", ".join(values.values())
            statement = f"insert into peers.task ({fields}) values ({given})"
        else:
            named = ", ".join(f"{name} => {given}" for name, given in values.items())
            statement = f"select peers.submit({named})"
        sqlstate, words = refusal(db, statement)
        assert sqlstate == "PE009", case
        assert field in words, case
        assert bound in words, case
    assert value(db, "select count(*) from peers.task") == 0


def test_a_change_is_bounded_as_a_submission_is(db: Connection) -> None:
    """peers.change refuses the times, timeouts and args that an INSERT refuses."""
    task_id = submit(db)
    cases = {case: MALFORMED[case] for case in MALFORMED if MALFORMED[case][0] in CHANGEABLE}
    for case, (field, wrong, bound) in cases.items():
        call = f"select peers.change(%s, {field} => {wrong})"
        sqlstate, words = refusal(db, call, task_id)
        assert sqlstate == "PE009", case
        assert bound in words, case


def test_a_transaction_can_be_prepared_without_notification(
    db: Connection, peer: Peer, connect: Callable[[], Connection]
) -> None:
    """With peers.notify off: the task is prepared, committed, and found by a poll."""
    if int(value(db, "show max_prepared_transactions")) == 0:
        pytest.skip("the server has max_prepared_transactions = 0")
    listener, submitter = connect(), connect()
    run(listener, "listen peers")
    run(submitter, "begin")
    run(submitter, "set local peers.notify = off")
    parent = submit(submitter)
    child = submit(submitter, depends_on=[parent])
    run(submitter, "prepare transaction 'two phases'")
    assert peer.claim() == []
    run(db, "commit prepared 'two phases'")
    [claim] = peer.claim()
    assert (claim.task_id, state(db, child)) == (parent, "blocked")
    assert list(listener.notifies(timeout=0)) == []
    submit(submitter)  # the setting was for that transaction only
    assert len(list(listener.notifies(timeout=10, stop_after=1))) == 1


@pytest.mark.parametrize("off", ["off", "false", "no", "0"])
def test_the_notification_is_left_out_by_every_verb(
    db: Connection, peer: Peer, connect: Callable[[], Connection], off: str
) -> None:
    """No submission, change, release, retry or cancellation sends one in such a session."""
    listener = connect()
    run(listener, "listen peers")
    run(db, f"set peers.notify = {off}")
    first, second = submit(db), submit(db, scheduled_at="2030-01-01")
    run(db, "select peers.change(%s, scheduled_at => now())", second)
    running, failing = peer.claim()
    run(db, "select peers.cancel(%s)", running.task_id)
    peer.fail(failing, reject=True)
    run(db, "select peers.retry(%s)", failing.task_id)
    peer.release(*peer.claim())
    run(db, "select peers.resume('default')")
    assert {first, second} == {running.task_id, failing.task_id}
    run(db, "notify peers, 'end'")
    assert [bell.payload for bell in listener.notifies(timeout=10, stop_after=1)] == ["end"]


def test_an_absurd_priority_is_refused_with_its_bounds(db: Connection) -> None:
    """Submit names the bounds of a priority."""
    for priority in (-32769, 32768, 99999):
        sqlstate, words = refusal(db, "select peers.submit('a', priority => %s)", priority)
        assert sqlstate == "PE009"
        assert "-32768 to 32767" in words


def test_args_of_just_1_mib_are_accepted(db: Connection) -> None:
    """The bound itself is allowed, and comes back whole, however well or badly it compresses."""
    frame = len('{"x": ""}')
    for text in ("repeat('x', %s)", "left(repeat(gen_random_uuid()::text, 30000), %s)"):
        run(
            db,
            f"insert into peers.task (kind, args) values ('a', jsonb_build_object('x', {text}))",
            MEBIBYTE - frame,
        )
    assert column(db, "select octet_length(args::text) from peers.task") == [MEBIBYTE, MEBIBYTE]


def test_text_size_is_the_size_of_the_text_and_never_fails(db: Connection) -> None:
    """_text_size is exact up to 1 MiB and large beyond, compressed or not, for any JSON."""
    exact = ["'1e131071'", "'null'", "'\"\"'", "'[1.50, {}, \"ä\"]'", "repeat('[1,', 900) || '1'"
             " || repeat(']', 900)", "'[1' || repeat(', -9e99', 10000) || ']'"]  # fmt: skip
    for value_ in exact:
        measured = "select peers._text_size(v) = octet_length(v::text)"
        assert value(db, f"{measured} from (select ({value_})::jsonb) a(v)"), value_
    run(db, "create table kept (v jsonb)")
    for case, large in LARGE_ONLY_AS_TEXT.items():
        assert value(db, f"select peers._text_size({large})") > MEBIBYTE, case
        run(db, f"insert into kept select {large}")
    assert value(db, "select min(peers._text_size(v)) from kept") > MEBIBYTE


def test_an_idempotency_key_makes_one_task(db: Connection) -> None:
    """A second submit answers the first one's id and changes nothing; ON CONFLICT works as well."""
    first = submit(db, "a", idempotency_key="k", args={"n": 1})
    assert submit(db, "b", idempotency_key="k", args={"n": 2}) == first
    run(
        db,
        "insert into peers.task (kind, idempotency_key) values ('c', 'k') on conflict do nothing",
    )
    assert rows(db, "select id, kind, args from peers.task") == [
        {"id": first, "kind": "a", "args": {"n": 1}}
    ]
    assert value(db, "select count(*) from peers.ready") == 1
    with pytest.raises(psycopg.errors.UniqueViolation):
        run(db, "insert into peers.task (kind, idempotency_key) values ('d', 'k')")


@pytest.mark.parametrize("first_commits", [True, False])
def test_two_sessions_with_one_key_make_one_task(world: World, first_commits: bool) -> None:
    """The second session waits, gets the first one's task if it commits, else makes its own."""
    first, second = world.connect(), world.connect()
    with first.transaction(force_rollback=not first_commits):
        first_id = submit(first, idempotency_key="k")
        waiting = world.background(submit, second, idempotency_key="k")
        world.until_waiting(second)
    second_id = result(waiting)
    assert (second_id == first_id) is first_commits
    assert column(world.db, "select id from peers.task") == [second_id]
    assert len(world.peer().claim()) == 1


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
def test_plain_inserts_work_under_any_isolation(db: Connection, peer: Peer, level: str) -> None:
    """An INSERT without edges needs no particular isolation level."""
    run(db, f"begin isolation level {level}")
    run(db, "insert into peers.task (kind) values ('a')")
    submit(db)
    run(db, "commit")
    assert len(peer.claim()) == 2


def test_a_session_with_its_own_search_path_may_insert(db: Connection, peer: Peer) -> None:
    """Objects that a session's search_path finds first never reach our triggers."""
    run(db, "create schema evil")
    run(db, "create function evil.now() returns timestamptz language sql return null::timestamptz")
    run(db, "create table evil.ready (like peers.ready)")
    run(db, "create temporary table ready (like peers.ready)")
    run(db, "set search_path = evil, pg_catalog")
    run(db, "insert into peers.task (kind) values ('a')")
    run(db, "set search_path = ''")
    run(db, "insert into peers.task (kind) values ('a')")
    assert len(peer.claim()) == 2


def test_many_tasks_are_submitted_in_one_call(db: Connection, peer: Peer) -> None:
    """Each element of the array is a task, with an id in the order of the array."""
    parent = submit(db, "other")
    ids = value(
        db,
        "select peers.submit_many('a', '[{\"n\": 1}, {\"n\": 2}]', priority => 3,"
        " depends_on => array[%s]::bigint[])",
        parent,
    )
    assert [value(db, "select args from peers.task where id = %s", each) for each in ids] == [
        {"n": 1}, {"n": 2},
    ]  # fmt: skip
    assert column(db, "select priority from peers.task where state = 'blocked'") == [3, 3]
    assert value(db, "select peers.submit_many('a', '[]')") == []
    assert peer.claim() == []


@pytest.mark.parametrize(
    "arguments",
    ["'a', '{}'", "'a', null", "'a', '[1]'", "'a', '[{}, null]'", "'a', '[{}]', priority => 32768",
     "'a', '[{}]', max_attempts => 0", "'', '[{}]'"],
)  # fmt: skip
def test_many_malformed_tasks_are_refused(db: Connection, arguments: str) -> None:
    """None of them is submitted."""
    assert refusal(db, f"select peers.submit_many({arguments})")[0] == "PE009"
    assert value(db, "select count(*) from peers.task") == 0


@pytest.mark.parametrize("apart", ["1 second", "0"])
def test_promotion_reaches_tasks_behind_those_that_are_refused(db: Connection, apart: str) -> None:
    """An application's trigger refuses many more tasks than promote takes at once."""
    run(
        db,
        "insert into peers.task (kind, scheduled_at)"
        " select case when n <= 90 then 'refused' else 'a' end,"
        " now() + interval '1 second' + n * %s::interval from generate_series(1, 120) n",
        apart,
    )
    run(
        db,
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'no'; end $$",
    )
    run(
        db,
        "create trigger refuse before update on peers.task for each row"
        " when (old.kind = 'refused') execute function refuse()",
    )
    advance(db, "1 hour")
    for _ in range(300):
        run(db, "select peers.promote(10)")
        if value(db, "select count(*) from peers.ready") == 30:
            break
    assert column(db, "select distinct kind from peers.ready") == ["a"]
    assert value(db, "select count(*) from peers.ready") == 30
