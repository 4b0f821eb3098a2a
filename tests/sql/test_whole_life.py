"""A task's whole life in databases as people have them: encodings, settings, publications."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.world import (
    Peer,
    World,
    advance,
    problems,
    promote,
    rows,
    run,
    state,
    submit,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection


def live(db: Connection) -> None:
    """Every transition of a task, each verb once."""
    peer, lost = Peer.join(db), Peer.join(db, "b")
    parent = submit(db, args={"name": "Zoë"}, idempotency_key="k")
    child = submit(db, "b", depends_on=[parent])
    later = value(db, "select peers.submit('a', scheduled_at => peers.now() + interval '5 s')")
    failing, dying = submit(db), submit(db, max_attempts=1)
    claims = {claim.task_id: claim for claim in peer.claim()}
    assert peer.complete(claims[parent], result={"name": "Zoë"}) == {}
    assert peer.fail(claims[failing], retry_in=1, error_message="no such page: é") == {}
    assert peer.fail(claims[dying], error_message="no good") == {}
    [lost_claim] = lost.claim()
    assert lost_claim.task_id == child
    assert rows(db, "select result from peers.parent_results(%s)", child) == [
        {"result": {"name": "Zoë"}}
    ]
    run(db, "select peers.hold_off('a', '5 s')")
    for _ in range(3):
        peer.advance_steadily(10)
    assert [each["task_id"] for each in peer.reclaim()] == [child]
    assert promote(db) == 2
    run(db, "select peers.retry(%s)", dying)
    run(db, "select peers.change(%s, priority => 1)", later)
    assert peer.claim()[0].task_id == later
    peer.reconcile()
    run(db, "select peers.cancel(id) from peers.task where state in ('ready', 'scheduled')")
    for task_id in (parent, child, later, failing, dying):
        assert value(db, "select peers.explain(%s)", task_id)
    for view in ("queue_status", "dead_letter", "peer_status", "running"):
        rows(db, f"select x::text from peers.{view} x")
    assert state(db, parent) == "completed"
    advance(db, "2 days")
    assert problems(db) == []
    assert value(db, "select deleted from peers.prune('1 day')") == 5
    peer.leave()


def test_a_publication_of_all_tables_hinders_nothing(world: World) -> None:
    """Each statement of each verb can be published, and what is decoded names the tables."""
    db = world.db
    if value(db, "show wal_level") != "logical":
        pytest.skip("the server that PEERS_TEST_DSN names decodes nothing (wal_level)")
    run(db, "create publication everything for all tables")
    run(db, "select pg_create_logical_replication_slot('peers_test', 'pgoutput', true)")
    run(db, "set synchronous_commit = on")  # what is not flushed is not decoded
    live(db)
    decoded = value(
        db,
        "select count(*) from pg_logical_slot_get_binary_changes('peers_test', null, null,"
        " 'proto_version', '1', 'publication_names', 'everything') where get_byte(data, 0)"
        " in (ascii('I'), ascii('U'), ascii('D'))",
    )
    assert decoded > 50
    run(db, "select pg_drop_replication_slot('peers_test')")
