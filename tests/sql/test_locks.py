"""Whatever another session has locked, no function that a peer calls waits without a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from tests.support.world import (
    Peer,
    World,
    column,
    problems,
    promote,
    rows,
    run,
    state,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import Claim

LOCK_NOT_AVAILABLE: Final = "55P03"
TABLES: Final = [
    "task", "dependency", "ready", "scheduled", "blocked", "lease", "dead", "failure", "peer",
    "cancel_request", "task_progress", "kind", "paused_queue", "cooldown", "prune_cursor", "clock",
    "graph",
]  # fmt: skip


def furnish(world: World) -> tuple[Peer, list[Claim]]:
    """A database in which every table has rows; a peer, and what it has claimed."""
    db = world.db
    for _ in range(6):
        failing = submit(db, max_attempts=1, priority=1)
        submit(db, "b", depends_on=[failing], on_parent_failure="cancel")
        submit(db, "b", depends_on=[failing], on_parent_failure="run")
    peer, lost, steady = world.peer(), world.peer(), world.peer("x")
    for _ in range(3):
        assert lost.claim(1)
    for _ in range(3):
        steady.advance_steadily(10)
        peer.heartbeat()
    claims = peer.claim(3)
    submit(db), submit(db, "nobody")
    later = value(db, "select peers.submit('a', scheduled_at => peers.now() + interval '1 s')")
    for claim in claims[:2]:
        run(db, "select peers.progress(%s, %s, %s, 0, 2)", peer.id, *claim.pair)
    run(db, "select peers.cancel(%s)", claims[2].task_id)
    dead = submit(db, priority=1)
    assert peer.fail(*peer.claim(1), reject=True) == {}
    assert state(db, dead) == "dead"
    run(db, "insert into peers.clock (shift) values ('0 s') on conflict do nothing")
    run(db, "update peers.clock set shift = shift + interval '2 s'")
    run(db, "select peers.pause('elsewhere')")
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    submit(db, graph_id=graph)
    run(db, "select peers.pause_graph(%s)", graph)
    submit(db, graph_id=graph)
    run(db, "select peers.start_cooldown('a', '1 hour')")
    run(db, "select * from peers.prune('1 day')")
    assert later
    assert {
        table for table in TABLES if value(db, f"select count(*) = 0 from peers.{table}")
    } == set()
    return peer, claims


def verbs(peer: Peer, claims: list[Claim]) -> dict[str, Callable[[], object]]:
    """Every call that a peer makes, in an order in which each finds something to do."""
    db, (one, two, three) = peer.db, claims
    steady = column(db, "select id from peers.peer where kinds = array['x']")[0]
    join = (
        "select peers.join('h', 1, '{\"default\": 1}', '[{\"kind\": \"a\"}]', '30 s',"
        " peers.contract_version())"
    )
    return {
        "heartbeat": peer.heartbeat,
        "progress": lambda: value(
            db, "select peers.progress(%s, %s, %s, 1, 2)", peer.id, *one.pair
        ),
        "claim": lambda: peer.claim(1),
        "complete": lambda: peer.complete(one),
        "fail": lambda: peer.fail(two),
        "release": lambda: peer.release(three),
        "reconcile": peer.reconcile,
        "reclaim": Peer(db, steady).reclaim,
        "promote": lambda: promote(db),
        "parent_results": lambda: rows(db, "select * from peers.parent_results(2)"),
        "unrunnable": lambda: rows(db, "select * from peers.unrunnable()"),
        "start_cooldown": lambda: value(db, "select peers.start_cooldown('a', '2 hours')"),
        "cooldown_left": lambda: value(db, "select peers.cooldown_left('a')"),
        "apply_retention": lambda: rows(db, "select * from peers.apply_retention('0 s', null)"),
        "prune": lambda: rows(db, "select * from peers.prune('0 s')"),  # by hand
        "join": lambda: value(db, join),
        "leave": peer.leave,
    }


@pytest.mark.parametrize("table", TABLES)
def test_no_verb_of_a_peer_waits_for_long(world: World, table: str) -> None:
    """While a session has every row of a table locked, each verb ends within seconds."""
    peer, claims = furnish(world)
    holder = world.connect()
    run(peer.db, "set statement_timeout = '5 s'")
    with holder.transaction():
        run(holder, f"select from peers.{table} for update")
        for verb, call in verbs(peer, claims).items():
            try:
                call()
            except psycopg.errors.LockNotAvailable:
                assert (verb, table) in {
                    ("heartbeat", "peer"), ("start_cooldown", "cooldown"),
                    ("apply_retention", "dependency"), ("apply_retention", "failure"),
                    ("prune", "dependency"), ("prune", "failure"), ("prune", "prune_cursor"),
                }  # fmt: skip
    assert problems(world.db) == []
