"""What people ask while very much waits reads only what it needs, in the order of the table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from peers.client.statements import find_statement
from peers.types import TaskState
from tests.support.world import Peer, run, submit, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection

MANY = 3000
STATES = ("blocked", "dead", "ready", "running", "scheduled")


@pytest.fixture
def waiting(db: Connection, peer: Peer) -> Connection:
    """Return a database with many tasks in each state that has a narrow table."""
    insert = "insert into peers.task (kind, scheduled_at, max_attempts)"
    run(db, f"{insert} select 'a', now(), 1 from generate_series(1, {MANY})")
    for _ in range(MANY // 100):
        peer.fail(*peer.claim(100, queue="default"), reject=True)
    run(db, f"{insert} select 'a', now(), 1 from generate_series(1, {MANY})")
    for _ in range(MANY // 100):
        peer.claim(100, queue="default")
    run(db, f"{insert} select 'late', now() + interval '1 h', 1 from generate_series(1, {MANY})")
    run(db, f"{insert} select 'a', now(), 1 from generate_series(1, {MANY})")
    parent = submit(db)
    run(
        db,
        f"""
        with child as (insert into peers.task (kind) select 'a' from generate_series(1, {MANY})
                       returning id)
        insert into peers.dependency (parent_id, child_id) select {parent}, id from child""",
    )
    return db


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each node of a plan, the outermost first."""
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


def plan_of(db: Connection, query: str) -> dict[str, Any]:
    """Return the plan of a query that was run."""
    [whole] = value(db, f"explain (analyze, format json) {query}")
    plan: dict[str, Any] = whole["Plan"]
    return plan


@pytest.mark.parametrize("is_analyzed", [False, True])
def test_queue_status_reads_tasks_in_the_order_of_the_table(
    waiting: Connection, is_analyzed: bool
) -> None:
    """Whoever reads a million rows in another order waits for the disk again and again."""
    if is_analyzed:
        run(waiting, "analyze")
    plan = plan_of(waiting, "select * from peers.queue_status")
    loops = [
        node["Plans"][0]
        for node in nodes(plan)
        if node["Node Type"] == "Nested Loop"
        and node["Plans"][0]["Actual Rows"] >= MANY
        and any(below.get("Relation Name") == "task" for below in nodes(node["Plans"][1]))
        and not any(below["Node Type"] == "Function Scan" for below in nodes(node))
    ]
    assert len(loops) == 2  # ready and scheduled
    for outer in loops:
        assert any(node["Node Type"] == "Sort" for node in nodes(outer)), outer
        assert outer["Node Type"] in ("Sort", "Unique", "Subquery Scan"), outer


@pytest.mark.parametrize("kind", [None, "a", "late", "b"])
@pytest.mark.parametrize("state", STATES)
def test_find_reads_no_more_tasks_than_it_returns(
    waiting: Connection, state: str, kind: str | None
) -> None:
    """The rows of the narrow tables say in which order to read, and of which kind."""
    limit = 5
    document = json.dumps({"state": state, "limit": limit, "kind": kind})
    statement = find_statement(TaskState(state), in_graph=False)
    plan = plan_of(waiting, statement.sql.replace(":document", f"'{document}'"))
    read = sum(
        node["Actual Rows"] * node["Actual Loops"]
        for node in nodes(plan)
        if node.get("Relation Name") == "task"
    )
    of_another_kind = kind is not None and value(
        waiting, "select count(*) = 0 from peers.task where state::text = %s and kind = %s",
        state, kind,
    )  # fmt: skip
    if of_another_kind and state in ("blocked", "running", "scheduled"):
        return  # these tables do not have the kind: each of their tasks is looked at
    assert read == (0 if of_another_kind else limit)


def test_find_in_a_graph_reads_only_its_tasks(waiting: Connection) -> None:
    """However many tasks are ready elsewhere."""
    graph = value(waiting, "insert into peers.graph (name) values ('g') returning id")
    ids = [submit(waiting, graph_id=graph) for _ in range(9)]
    document = json.dumps({"state": "ready", "limit": 5, "graph": graph})
    statement = find_statement(TaskState("ready"), in_graph=True)
    plan = plan_of(waiting, statement.sql.replace(":document", f"'{document}'"))
    read = {node.get("Relation Name"): node["Actual Rows"] for node in nodes(plan)}
    assert 5 <= read["task"] <= len(ids)
    assert "ready" not in read
