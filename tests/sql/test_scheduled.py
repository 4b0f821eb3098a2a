"""Peers learn when scheduled tasks are due, so that they need not ask all the time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from peers.peer.promotion import SCHEDULED, Promotion
from tests.support.server import Connection, open_connection
from tests.support.world import submit, value

SOON = timedelta(seconds=20)
LATER = timedelta(seconds=60)


@pytest.fixture
def listener(database_url: str) -> Iterator[Connection]:
    """A connection that listens."""
    with open_connection(database_url) as connection:
        connection.execute("listen peers")
        yield connection


def heard(listener: Connection) -> list[str]:
    """The payloads that have come about scheduled tasks."""
    listener.execute("select 1")
    payloads = [notify.payload for notify in listener.notifies(timeout=0.2)]
    return [payload for payload in payloads if payload.startswith(SCHEDULED)]


def schedule(db: Connection, after: timedelta, kind: str = "a") -> int:
    """Submit a task that is due later."""
    return submit(db, kind, scheduled_at=value(db, "select peers.now() + %s", after))


def test_peers_are_notified_of_a_task_that_is_due_soon(
    db: Connection, listener: Connection
) -> None:
    """Of the first one of a statement, with its time; not of one that they find by themselves."""
    schedule(db, LATER)
    assert heard(listener) == []
    db.execute(
        "insert into peers.task (kind, scheduled_at)"
        " select 'a', peers.now() + make_interval(secs => 10 + n) from generate_series(1, 50) n"
    )
    [payload] = heard(listener)
    due_at = value(db, "select date_part('epoch', min(due_at)) from peers.scheduled")
    assert float(payload.removeprefix(SCHEDULED)) == pytest.approx(due_at, abs=1e-3)
    promotion = Promotion()
    promotion.notified(payload)


def test_a_retry_with_a_short_backoff_is_notified_too(db: Connection, listener: Connection) -> None:
    """Whatever schedules a task: here an operator."""
    task_id = schedule(db, LATER)
    db.execute("select peers.change(%s, scheduled_at => peers.now() + %s)", (task_id, SOON))
    assert len(heard(listener)) == 1


def test_a_transaction_can_leave_the_notification_out(db: Connection, listener: Connection) -> None:
    """As with every notification to the peers."""
    with db.transaction():
        db.execute("set local peers.notify = off")
        schedule(db, SOON)
    assert heard(listener) == []


def test_without_the_trigger_nobody_is_notified(db: Connection, listener: Connection) -> None:
    """The broken variant: peers would start the task up to ten seconds late."""
    db.execute("drop trigger notify_scheduled on peers.scheduled")
    schedule(db, SOON)
    assert heard(listener) == []


def test_when_the_next_task_is_due(db: Connection) -> None:
    """The earliest one that is not long past; null without any."""
    assert value(db, "select peers.next_due()") is None
    schedule(db, LATER)
    schedule(db, SOON)
    assert value(db, "select peers.next_due() = min(due_at) from peers.scheduled")
    with _unguarded(db):
        db.execute("update peers.scheduled set due_at = now() - interval '1 hour'")
    assert value(db, "select peers.next_due()") is None


def test_the_next_time_is_found_past_many_promoted_tasks(db: Connection) -> None:
    """Their entries are still in the index, because an old snapshot keeps vacuum away."""
    with psycopg.connect(db.info.dsn) as other:
        other.execute("set transaction isolation level serializable")
        other.execute("select 1")
        with _unguarded(db):
            db.execute(
                "insert into peers.scheduled (due_at, task_id)"
                " select now() - interval '2 hours', n from generate_series(1, 20000) n"
            )
            db.execute("delete from peers.scheduled")
        schedule(db, SOON)
        assert _blocks(db, "due_at > now() - interval '1 minute'") < 10
        assert value(db, "select peers.next_due() is not null")
        assert _blocks(db, "true") > 50, "the broken variant: it walks over all of them"


def _blocks(db: Connection, condition: str) -> int:
    [row] = db.execute(
        "explain (analyze, buffers, format json) select due_at from peers.scheduled"
        f" where {condition} order by due_at limit 1".encode()
    ).fetchall()
    plan = row["QUERY PLAN"][0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@contextlib.contextmanager
def _unguarded(db: Connection) -> Iterator[None]:
    db.execute("set session_replication_role = replica")
    db.execute("set enable_seqscan = off")
    yield
    db.execute("set session_replication_role = origin")
