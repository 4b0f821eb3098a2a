"""The typed functions: every verb by its name, values as Python has them, errors as ours."""

from __future__ import annotations

import inspect
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from psycopg.conninfo import make_conninfo

import peers
from peers import errors
from peers.database import functions, maintenance, schema
from peers.database.backoff import Backoff
from peers.database.connection import connect, is_connection_lost
from peers.database.rows import (
    Claimed,
    HeartbeatReply,
    LostPeer,
    Sibling,
    Unrecorded,
    UnstartedTasks,
)
from peers.types import CONTRACT_VERSION, KindPolicy, ParentFailure, TaskState
from tests.support import verbs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from peers.database.connection import Connection
    from peers.database.deadlines import BoundedConnection

LEASE = timedelta(seconds=30)


@pytest.fixture
def connection(database_url: str) -> Iterator[BoundedConnection]:
    """A connection as a peer has it."""
    connection = connect(database_url, application_name="test")
    yield connection
    connection.close()


@pytest.fixture
def peer(connection: BoundedConnection) -> UUID:
    """A peer that runs kinds a and b."""
    policies = [KindPolicy("a", max_attempts=2, timeout=2.5, backoff_base=0), KindPolicy("b")]
    return functions.join(connection, "vega", 42, {"default": 8}, policies, LEASE)


def submit(connection: Connection, kind: str, args: bytes = b"{}", **options: object) -> int:
    """Submit a task with named options, and return its id."""
    named = "".join(f", {name} => %s" for name in options)
    query = f"select peers.submit(%s, convert_from(%b, 'UTF8')::jsonb{named})"
    with errors.translated():
        rows = connection.execute(query.encode(), [kind, args, *options.values()]).fetchall()
    return int(rows[0][0])


def submit_graph(connection: Connection, graph: bytes) -> None:
    """Submit the nodes of a JSON array."""
    with errors.translated():
        connection.execute("select peers.submit_graph(convert_from(%b, 'UTF8')::jsonb)", [graph])


def test_every_function_has_the_parameters_of_its_namesake(connection: Connection) -> None:
    """Same name, same order; the connection comes first."""
    in_sql: dict[str, list[str] | None] = dict(
        connection.execute(
            "select proname::text, array_remove(proargnames[1:pronargs], null) from pg_proc"
            " where pronamespace = 'peers'::regnamespace and prorettype <> 'trigger'::regtype"
        ).fetchall()
    )
    checked = 0
    for name, function in inspect.getmembers(functions, inspect.isfunction):
        if function.__module__ == functions.__name__ and not name.startswith("_"):
            ours = list(inspect.signature(function).parameters)
            assert ours == ["connection", *(in_sql[name] or [])], name
            checked += 1
    assert checked >= 12


def test_a_task_goes_from_submission_to_its_result(
    connection: BoundedConnection, peer: UUID
) -> None:
    """Args and results are bytes all the way, whatever their language."""
    parent = submit(connection, "a", '{"name": "Zoë"}'.encode(), priority=5)
    child = submit(connection, "b", depends_on=[parent], on_parent_failure=ParentFailure.RUN.value)
    [task] = verbs.claim(connection, peer, "default", 10)
    assert task == Claimed(parent, task.token, 1, "a", '{"name": "Zoë"}'.encode(), None, 5)
    assert verbs.complete(connection, peer, [task], {"ok": "é"}) == []
    assert verbs.complete(connection, peer, [task], {"ok": "é"}) == [
        Unrecorded(parent, task.token, "already")
    ]
    [task] = verbs.claim(connection, peer, "default", 10)
    assert (task.task_id, task.timeout) == (child, None)
    [result] = functions.parent_results(connection, child)
    assert result == (parent, "a", TaskState.COMPLETED, '{"ok": "é"}'.encode())


def test_one_claim_is_one_batch_under_one_token(connection: BoundedConnection, peer: UUID) -> None:
    """In the order of becoming ready; another claim finds nothing left."""
    ids = [submit(connection, "b", metadata='{"m": 1}') for _ in range(20)]
    batch = verbs.claim(connection, peer, "default", 20)
    assert [task.task_id for task in batch] == ids
    assert len({task.token for task in batch}) == 1
    assert verbs.claim(connection, peer, "default", 20) == []


def test_failures_of_any_shape_are_recorded(connection: BoundedConnection, peer: UUID) -> None:
    """A failed attempt is tried again at once where it says so, a rejected one is dead."""
    task_id = submit(connection, "a")
    [task] = verbs.claim(connection, peer, "default", 1)
    failure = {"task_id": task_id, "token": task.token, "error_type": "E", "retry_in": 0}
    assert verbs.fail(connection, peer, [failure]) == []
    [task] = verbs.claim(connection, peer, "default", 1)
    assert task.attempt == 2
    verbs.fail(connection, peer, [failure | {"token": str(task.token), "reject": True}])
    assert peers.explain_in(connection, task_id).startswith("Dead")
    assert peers.retry_in(connection, task_id, {"again": True}) == 1
    [task] = verbs.claim(connection, peer, "default", 1)
    assert (task.attempt, task.args) == (1, b'{"again": true}')
    verbs.fail(connection, peer, [failure | {"token": task.token, "reject": True}])
    assert peers.discard_in(connection, task_id) == 1


def test_the_heartbeat_tells_whom_to_stop(connection: BoundedConnection, peer: UUID) -> None:
    """Pairs of task and token, and whether the peer is still a member."""
    submit(connection, "a")
    [task] = verbs.claim(connection, peer, "default", 1)
    assert functions.heartbeat(connection, peer).cancelled == frozenset()
    assert peers.cancel_in(connection, task.task_id) == TaskState.RUNNING
    beat = functions.heartbeat(connection, peer)
    assert beat == HeartbeatReply(CONTRACT_VERSION, True, frozenset({(task.task_id, task.token)}))
    assert not functions.heartbeat(connection, uuid4()).alive
    assert functions.progress(connection, peer, task.task_id, task.token, 1, None)
    assert not functions.progress(connection, peer, task.task_id, uuid4(), 1, 2)


def test_leases_are_given_back(connection: BoundedConnection, peer: UUID) -> None:
    """By name, by reconciling, by leaving; each says how many."""
    for _ in range(3):
        submit(connection, "a")
    first, second, third = (verbs.claim(connection, peer, "default", 1)[0] for _ in range(3))
    assert verbs.release(connection, peer, [first]) == []
    [again] = verbs.release(connection, peer, [first])
    assert again == (first.task_id, first.token, "stale")
    assert verbs.reconcile(connection, peer, [third.token]) == 1
    assert second.token != third.token
    assert functions.leave(connection, peer) == 1
    with pytest.raises(errors.PeerLost, match="Stop its handlers, then join again"):
        verbs.claim(connection, peer, "default", 1)


def test_a_lost_peer_is_reclaimed_from(connection: BoundedConnection, peer: UUID) -> None:
    """The answer names the task, the peer and its host."""
    submit(connection, "a")
    [task] = verbs.claim(connection, peer, "default", 1)
    other = functions.join(connection, "deneb", 1, {"default": 1}, [KindPolicy("a")], LEASE)
    for shift in ("10 seconds", "20 seconds", "30 seconds"):
        connection.execute(
            "insert into peers.clock (shift) values (%s) on conflict (one_row)"
            " do update set shift = excluded.shift",
            (shift,),
        )
        functions.heartbeat(connection, other)
    assert verbs.reclaim(connection, other) == [
        (task.task_id, "a", 1, task.token, peer, "vega", "default", "retried")
    ]


def test_waiting_tasks_are_changed_promoted_and_pruned(
    connection: BoundedConnection, peer: UUID
) -> None:
    """Times are datetimes with a zone, durations timedeltas, and None changes nothing."""
    task_id = submit(connection, "a", scheduled_at=datetime(2100, 1, 1, tzinfo=UTC))
    due = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    promoted, now, next_due_at = verbs.promote(connection)
    assert (promoted, next_due_at) == (0, due)
    assert abs(now - time.time()) < 60
    past = datetime(2020, 1, 1, tzinfo=UTC)
    peers.change_in(
        connection, task_id, priority=3, scheduled_at=past, args={"x": 1}, max_attempts=7,
        timeout=timedelta(seconds=9),
    )  # fmt: skip
    peers.change_in(connection, task_id)
    [task] = verbs.claim(connection, peer, "default", 5)
    assert (task.priority, task.args, task.timeout) == (3, b'{"x": 1}', 9.0)
    verbs.complete(connection, peer, [task], {"ok": "é"})
    assert functions.prune(connection, timedelta(0)) == (1, 1, True)


def test_graphs_are_paused_resumed_retried_and_cancelled(
    connection: BoundedConnection, peer: UUID
) -> None:
    """Each function returns how many tasks it changed."""
    [(graph,)] = connection.execute(
        "insert into peers.graph (name) values ('g') returning id"
    ).fetchall()
    for _ in range(3):
        submit(connection, "a", graph_id=graph)
    [task] = verbs.claim(connection, peer, "default", 1)
    failure = {"task_id": task.task_id, "token": task.token, "error_type": "E", "reject": True}
    verbs.fail(connection, peer, [failure])
    assert peers.pause_graph_in(connection, graph) == 2
    assert verbs.claim(connection, peer, "default", 3) == []
    assert peers.resume_graph_in(connection, graph) == 2
    assert peers.retry_graph_in(connection, graph) == 1
    assert peers.cancel_graph_in(connection, graph) == 3


def test_queues_are_paused_and_unrunnable_kinds_are_told(connection: Connection) -> None:
    """The alarm has a count and an age."""
    task_id = submit(connection, "nobody", queue="q")
    [alarm] = functions.unrunnable(connection)
    assert (alarm.queue, alarm.kind, alarm.tasks) == ("q", "nobody", 1)
    assert alarm.oldest_ready_at.tzinfo is not None
    peers.pause_in(connection, "q")
    assert "paused" in peers.explain_in(connection, task_id)
    peers.resume_in(connection, "q")
    assert "paused" not in peers.explain_in(connection, task_id)
    assert functions.check(connection) == []


CYCLE = (
    b"""[{"name": "a", "kind": "k", "after": ["b"]}, {"name": "b", "kind": "k", "after": ["a"]}]"""
)
NUL = b'{"x": "\\u0000"}'
REFUSALS: list[tuple[type[errors.PeersError], str, Callable[[BoundedConnection], object]]] = [
    (errors.CycleError, "a -> b -> a|b -> a -> b", lambda c: submit_graph(c, CYCLE)),
    (errors.GraphNotFound, "no graph 999", lambda c: peers.pause_graph_in(c, 999)),
    (errors.NotDead, "not a dead letter", lambda c: peers.retry_in(c, submit(c, "a"))),
    (errors.ContractMismatch, "version 2", lambda c: functions.join(c, "h", 1, {}, [], LEASE, 2)),
    (errors.BadGraph, "no task 999", lambda c: submit(c, "a", depends_on=[999])),
    (errors.TaskNotFound, "no task 999", lambda c: peers.cancel_in(c, 999)),
    (errors.BadTask, "JSON object such as", lambda c: submit(c, "a", b"[]")),
    (errors.BadTask, "must be -32768 to 32767", lambda c: submit(c, "a", priority=40000)),
    (errors.BadTask, "u0000 cannot be converted", lambda c: submit(c, "a", NUL)),
    (errors.PeerLost, "join again", lambda c: verbs.claim(c, uuid4(), "default", 1)),
]


@pytest.mark.parametrize(("kind", "message", "call"), REFUSALS)
def test_a_refusal_has_its_own_class_and_says_why(
    connection: BoundedConnection,
    kind: type[errors.PeersError],
    message: str,
    call: Callable[[BoundedConnection], object],
) -> None:
    """The sentence of the database with its hint; the driver's error is the cause."""
    with pytest.raises(kind, match=message) as caught:
        call(connection)
    assert caught.value.__cause__ is not None


def test_every_sqlstate_of_the_shipped_sql_has_a_class() -> None:
    """What the database can raise, from_database can name."""

    class RaisedError(Exception):
        sqlstate = ""

        class diag:  # noqa: N801 - the driver's name
            message_primary = "sentence"
            message_hint = message_detail = None

    states = set()
    for step in schema.steps():
        states.update(re.findall(r"errcode = '(PE\d{3})'", step.file.read_text()))
    states -= {"PE000", "PE999"}  # raised and caught within one function
    assert len(states) == 16
    for state in sorted(states):
        error = RaisedError()
        error.sqlstate = state
        ours = errors.from_database(error)
        assert type(ours).__doc__ is not None
        assert state in str(type(ours).__doc__)


# ---------------------------------------------------------------------------------- connections


def test_a_session_is_read_committed_whatever_the_database_says(
    connection: Connection, database_url: str
) -> None:
    """A database that defaults to another level does not break verbs."""
    name = connection.info.dbname
    connection.execute(
        f'alter database "{name}" set default_transaction_isolation to serializable'.encode()
    )
    with connect(database_url, application_name="test") as other:
        assert other.autocommit
        assert peers.cancel_in(other, submit(other, "a")) == TaskState.CANCELLED


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        (
            "host=/nowhere/at/all",
            errors.DatabaseUnreachable,
            "at /nowhere/at/all cannot be reached",
        ),
        ("host=127.0.0.1 port=1", errors.DatabaseUnreachable, r"127\.0\.0\.1, port 1.*refused"),
        ("postgres//u:s3cret@h", errors.ConfigError, "must look like postgresql://"),
        ("colour=red", errors.ConfigError, "cannot be read"),
    ],
)
def test_a_wrong_url_is_explained_without_its_password(
    url: str, kind: type[errors.PeersError], message: str
) -> None:
    """The error names the place and the remedy, and repeats no secret."""
    with pytest.raises(kind, match=message) as caught:
        connect(url, application_name="test")
    assert "s3cret" not in str(caught.value)
    assert "PEERS_DATABASE_URL" in str(caught.value)


def test_a_missing_database_or_role_is_a_wrong_setting(database_url: str) -> None:
    """Waiting would not help, so it is no DatabaseUnreachable."""
    for wrong in (" dbname=h3_absent", " user=h3_absent"):
        with pytest.raises(errors.ConfigError, match="refuses the connection"):
            connect(_with(database_url, wrong), application_name="test")


def _with(url: str, option: str) -> str:
    name, value = option.strip().split("=")
    return make_conninfo(url, **{name: value})


def test_a_broken_connection_counts_as_lost_and_a_refusal_does_not(
    connection: Connection, database_url: str
) -> None:
    """Killed, closed, or suddenly read-only as after a failover: connect again."""
    with connect(database_url, application_name="test") as victim:
        functions.contract_version(victim)
        connection.execute("select pg_terminate_backend(%s)", (victim.info.backend_pid,))
        with pytest.raises(Exception, match="terminat") as caught:
            functions.contract_version(victim)
        assert is_connection_lost(caught.value)
        with pytest.raises(Exception, match="closed") as caught:
            functions.contract_version(victim)
        assert is_connection_lost(caught.value)
    connection.execute("set default_transaction_read_only to on")
    with pytest.raises(Exception, match="read-only") as caught:
        submit(connection, "a")
    assert is_connection_lost(caught.value)
    with pytest.raises(Exception, match="syntax") as caught:
        connection.execute("selec")
    assert not is_connection_lost(caught.value)


def test_waits_between_tries_grow_to_a_cap_with_full_jitter() -> None:
    """Each is a random part of a span that doubles; a success starts afresh."""
    longest = Backoff(base=0.1, cap=5.0, luck=lambda: 1.0)
    waits = [longest.next() for _ in range(8)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    longest.reset()
    assert longest.next() == pytest.approx(0.1)
    assert Backoff(luck=lambda: 0.0).next() == 0.0


def test_the_peers_of_a_host(connection: BoundedConnection) -> None:
    """They find each other, and one declares the other lost."""
    identity = {"host_id": "one", "start": 123456, "lock": "ab", "version": "0.3.0"}
    first, second = (
        functions.join(
            connection, "vega", 7, {"default": 1}, [], timedelta(seconds=30), process=identity
        )
        for _ in range(2)
    )
    versions = connection.execute("select distinct version from peers.peer_status").fetchall()
    assert versions == [("0.3.0",)]
    found = maintenance.read_siblings(verbs.run(connection, maintenance.siblings(first)))
    assert found == [Sibling(second, 7, 123456, "ab")]
    reply = maintenance.read_reclaimed(verbs.run(connection, maintenance.reclaim(first, 10)))
    assert reply.tasks == []
    assert 0 < reply.next_in <= 30
    lost = maintenance.declare_lost(first, [second], [UnstartedTasks(first.bytes, 0, 3)])
    assert maintenance.read_lost(verbs.run(connection, lost)) == [LostPeer(second, "vega", 0)]
    reply = maintenance.read_reclaimed(verbs.run(connection, maintenance.reclaim(first, 10)))
    assert reply == ([], float("inf"))
