"""What a dry run counts is what the real run does, for every graph."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.world import Claim, Peer, column, problems, row, rows, run, submit, value

if TYPE_CHECKING:
    from tests.support.server import Connection

POLICIES = ("hold", "cancel", "run")
KINDS = ("a", "b")
FATES = ("complete", "die", "run", "release", "retry later")
UNFINISHED = ("blocked", "scheduled", "ready", "running")


@dataclass(frozen=True)
class Plan:
    """A graph whose edges go from earlier to later tasks, what became of it, and a call."""

    kinds: list[str]
    edges: list[tuple[int, int, str]]
    fates: list[str]
    verb: str
    chosen: list[bool]
    kind: str | None
    state: str | None
    max_tasks: int | None


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Draw a plan of up to ten tasks."""
    size = draw(st.integers(1, 10))
    pairs = [(parent, child) for child in range(size) for parent in range(child)]
    edges = [
        (*pair, draw(st.sampled_from(POLICIES))) for pair in pairs if draw(st.integers(0, 3)) == 0
    ]
    verb = draw(st.sampled_from(["retry_dead", "discard_dead", "cancel_tasks"]))
    return Plan(
        kinds=draw(st.lists(st.sampled_from(KINDS), min_size=size, max_size=size)),
        edges=edges,
        fates=draw(st.lists(st.sampled_from(FATES), min_size=size, max_size=size)),
        verb=verb,
        chosen=draw(st.lists(st.booleans(), min_size=size, max_size=size)),
        kind=draw(st.none() | st.sampled_from(KINDS)),
        state=draw(st.none() | st.sampled_from(UNFINISHED)) if verb == "cancel_tasks" else None,
        max_tasks=draw(st.none() | st.integers(1, 4)),
    )


@dataclass
class Stage:
    """One graph in the database, and the claims that still run."""

    db: Connection
    peer: Peer
    graph: int
    ids: list[int]
    running: list[Claim] = field(default_factory=list)

    def states(self) -> dict[int, str]:
        """Return the state of each task."""
        found = rows(self.db, "select id, state from peers.task where graph_id = %s", self.graph)
        return {task["id"]: task["state"] for task in found}

    def requests(self) -> int:
        """Return how many running tasks were asked to stop."""
        query = "select count(*) from peers.cancel_request r where r.task_id = any (%s)"
        return int(value(self.db, query, self.ids))

    def gained(self, before: dict[int, str], call: str) -> int:
        """Return how many blocked tasks can complete because of the call."""
        blocked = {task for task, state in before.items() if state == "blocked"}
        with_call, without = (self.completed_after_draining(blocked, c) for c in (call, None))
        return with_call - without

    def completed_after_draining(self, blocked: set[int], call: str | None) -> int:
        """Return how many of these tasks complete after the call, if all that can run completes."""
        with self.db.transaction(force_rollback=True):
            if call is not None:
                run(self.db, call)
            if self.running:
                self.peer.complete_each(
                    [c.task_id for c in self.running], [c.token for c in self.running],
                    [None] * len(self.running),
                )  # fmt: skip
            run(self.db, "update peers.clock set shift = shift + interval '1 day'")
            run(self.db, "select peers.heartbeat(%s)", self.peer.id)
            run(self.db, "select peers.promote(1000)")
            while claims := self.peer.claim():
                self.peer.complete(*claims)
            return len(blocked & {i for i, s in self.states().items() if s == "completed"})


def staged(db: Connection, peer: Peer, plan: Plan) -> Stage:
    """Submit the graph, and let each task that runs meet its fate."""
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    ids: list[int] = []
    with db.transaction():
        ids += [submit(db, kind, graph_id=graph) for kind in plan.kinds]
        for parent, child, policy in plan.edges:
            run(
                db, "insert into peers.dependency (parent_id, child_id, on_parent_failure)"
                " values (%s, %s, %s::peers.parent_failure_policy)",
                ids[parent], ids[child], policy,
            )  # fmt: skip
    stage = Stage(db, peer, graph, ids)
    fate_of = dict(zip(ids, plan.fates, strict=True))
    released: list[Claim] = []
    while claims := peer.claim():
        for claim in claims:
            fate = fate_of[claim.task_id]
            if fate == "complete":
                peer.complete(claim)
            elif fate == "die":
                peer.fail(claim, reject=True, error_message=f"of {claim.kind}")
            elif fate == "retry later":
                peer.fail(claim, retry_in=1000)
            elif fate == "run":
                stage.running.append(claim)
            else:
                released.append(claim)
    for claim in released:
        peer.release(claim)
    return stage


def called(plan: Plan, stage: Stage, *, dry_run: bool) -> str:
    """Return the call as SQL."""
    conditions: dict[str, Any] = {
        "ids": [i for i, chosen in zip(stage.ids, plan.chosen, strict=True) if chosen],
        "graph": stage.graph,
    }
    if plan.kind:
        conditions["kind"] = plan.kind
    if plan.state:
        conditions["state"] = plan.state
    maximum = "null" if plan.max_tasks is None else plan.max_tasks
    return (
        f"select * from peers.{plan.verb}('{json.dumps(conditions)}',"
        f" dry_run => {dry_run}, max_tasks => {maximum})"
    )


@settings(
    max_examples=60, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(plan=plans())
def test_a_dry_run_counts_what_the_run_then_does(db: Connection, plan: Plan) -> None:
    """It changes nothing, and the run returns the same and has exactly this effect."""
    run(db, "insert into peers.clock (shift) values ('0') on conflict do nothing")
    peer = Peer.join(db, *KINDS)
    try:
        stage = staged(db, peer, plan)
        before, asked = stage.states(), stage.requests()
        actions = value(db, "select count(*) from peers.action")
        promised = row(db, called(plan, stage, dry_run=True))
        assert (stage.states(), stage.requests()) == (before, asked)
        assert value(db, "select count(*) from peers.action") == actions

        call = called(plan, stage, dry_run=False)
        flowing = stage.gained(before, call) if plan.verb == "retry_dead" else 0
        done = row(db, call)
        assert done == promised
        after = stage.states()
        changed = [task for task in before if before[task] != after[task]]
        if plan.verb == "retry_dead":
            assert {after[task] for task in changed} <= {"ready"}
            assert (len(changed), flowing) == (done["tasks"], done["children"])
        else:
            cancelled = [task for task in changed if after[task] == "cancelled"]
            newly_asked = stage.requests() - asked
            assert len(cancelled) + newly_asked == done["tasks"] + done["children"]
        assert sorted(done["task_ids"]) == done["task_ids"]
        written = value(db, "select count(*) from peers.action") - actions
        assert written == (1 if done["tasks"] else 0)
        assert problems(db) == []
    finally:
        finish(db)


def finish(db: Connection) -> None:
    """Leave nothing for the next example to claim."""
    leases = column(db, "select id from peers.peer")
    for peer in leases:
        run(db, "select peers.leave(%s)", peer)
    run(db, "select count(*) from (select peers.cancel(id) from peers.task"
        " where state not in ('completed', 'cancelled')) c")  # fmt: skip
