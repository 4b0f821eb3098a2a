"""Each safeguard is load-bearing: the SQL without it fails the scenario that it passes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
import pytest

from tests.sql import scenarios
from tests.support.world import Patch, apply_patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import World

VALIDATE: Final = "20_validate.sql"
ENQUEUE: Final = "21_enqueue.sql"
SUBMIT: Final = "24_submit.sql"
INSERT_NODES: Final = "25_insert_nodes.sql"
CLAIM: Final = "45_claim.sql"
CAREFULLY: Final = "46_claim_carefully.sql"
OUTCOMES: Final = "50_outcomes.sql"
COMPLETE: Final = "52_complete.sql"
GRAPH: Final = "30_dependencies.sql"
RELEASE: Final = "35_unblock.sql"
GRAPH_TABLE: Final = "22_graph.sql"

_SIBLINGS = """exists (
                            select from peers.dependency d join peers.task p on p.id = d.parent_id
                            where d.child_id = t.id and p.state <> 'completed' and not d.waived
                        )"""

_BATCH_WAIT: Final = "    set lock_timeout = '200ms'\nas $$\ndeclare\n    -- it"


class Variant(NamedTuple):
    """Patches that take one safeguard out, the scenario that must notice, and how it does."""

    scenario: Callable[[World], None]
    patches: list[Patch]
    fails_with: type[Exception] | tuple[type[Exception], ...] = AssertionError


VARIANTS = {
    "claim waits for locked rows": Variant(
        scenarios.claims_do_not_wait,
        [
            Patch(CLAIM, " skip locked", "", times=2),
            Patch(CAREFULLY, " skip locked", "", times=4),
        ],
    ),
    "claim waits for locked tasks": Variant(
        scenarios.claims_do_not_wait, [Patch(CLAIM, "    set lock_timeout = '5ms'\n", "")]
    ),
    "the limit over all kinds is gone": Variant(
        scenarios.a_claim_takes_no_more_than_asked,
        [Patch(CAREFULLY, "        ) t\n        limit _wanted\n", "        ) t\n")],
    ),
    "a claim does not compare the priority": Variant(
        scenarios.a_changed_task_is_claimed_at_its_new_place,
        [Patch(file, "t.priority = _priorities[1] and ", "") for file in (CLAIM, CAREFULLY)],
    ),
    "a claim does not compare the state": Variant(
        scenarios.a_task_that_waits_again_is_not_claimed,
        [
            Patch(file, "and t.state = 'ready' and t.queue = _call", "and t.queue = _call")
            for file in (CLAIM, CAREFULLY)
        ],
    ),
    "a claim never looks before the remembered positions": Variant(
        scenarios.a_row_that_commits_late_is_found,
        [Patch(CLAIM, "and clock_timestamp() >= resume.look_at then", "and false then")],
    ),
    "a claim reads from the start while a locked task is there": Variant(
        scenarios.a_locked_task_does_not_slow_down_others,
        [
            Patch(CLAIM, "elsif _all_claimed and", "elsif _look_began is not null and"),
            Patch(CLAIM, "<= _began + interval '5 ms'", "<= _began + interval '1 hour'"),
        ],
    ),
    "a claim that gets too little relies on what claims share": Variant(
        scenarios.a_large_claim_is_rolled_back,
        [
            Patch(
                CLAIM,
                "or _shared is not null and coalesce(cardinality(_tasks.ids), 0) < max_tasks",
                "",
            )
        ],
    ),
    "a claim does not lock its peer": Variant(
        scenarios.a_peer_is_lost_while_it_claims,
        [
            Patch(CLAIM, "for key share skip locked", ""),
            Patch(CAREFULLY, "for key share skip locked", ""),
        ],
    ),
    "a refused task takes the others along": Variant(
        scenarios.a_trigger_refuses_one_task,
        [Patch(CAREFULLY, "if _half = 0 then", "if true then raise;")],
        psycopg.errors.RaiseException,
    ),
    "a full disk is taken for a refusal": Variant(
        scenarios.a_full_disk_is_not_a_refusal, [Patch(CAREFULLY, "in ('53', '57',", "in ('57',")]
    ),
    "the token is not compared": Variant(
        scenarios.a_part_that_was_released_has_left_its_lease,
        [Patch(COMPLETE, "and t.token = _token and t.state", "and t.state")],
    ),
    "the token is not compared for several leases": Variant(
        scenarios.a_part_that_was_released_has_left_its_lease,
        [
            Patch(file, "and t.token = o.token and t.state", "and t.state")
            for file in (OUTCOMES, COMPLETE)
        ],
    ),
    "the peer is not compared": Variant(
        scenarios.a_leaked_token_is_of_no_use,
        [
            Patch(
                COMPLETE,
                " and l.peer_id = complete.peer_id);\n            get",
                ");\n            get",
            )
        ],
    ),
    "a lease's open tasks are counted by an old snapshot": Variant(
        scenarios.two_sessions_record_parts_of_one_lease,
        [
            Patch(
                COMPLETE,
                "set open = l.open - _recorded",
                "set open = (select x.open from peers.lease x where x.token = _token) - _recorded",
            )
        ],
        (AssertionError, psycopg.errors.CheckViolation),
    ),
    "an outcome does not leave its lease": Variant(
        scenarios.a_part_that_was_released_has_left_its_lease,
        [Patch(OUTCOMES, "set open = l.open - e.ended", "set open = l.open")],
    ),
    "what a lost peer has recorded is taken for running": Variant(
        scenarios.a_lease_is_half_recorded_when_its_peer_dies,
        [
            Patch(
                OUTCOMES,
                "t.token = o.token and t.state = 'running'\n        for",
                "t.token = o.token\n        for",
            ),
            Patch(
                "57_reclaim.sql",
                "and t.token = l.token and t.state = 'running'\n            for",
                "and t.token = l.token\n            for",
            ),
            # without chance: another safeguard, the primary key of peers.dead, could hide the fault
            Patch(OUTCOMES, "1 + floor(random() * cardinality(_task_ids))", "1"),
        ],
    ),
    "reconcile takes the leases that the peer knows": Variant(
        scenarios.reconcile_takes_whole_leases_that_are_unknown,
        [Patch("56_release.sql", " and l.token <> all (reconcile.tokens)", "")],
    ),
    "an outcome waits for a stream of sessions": Variant(
        scenarios.a_stream_of_new_children_delays_their_parent,
        [Patch(COMPLETE, " and t.xmax = '0'", "", times=2)],
    ),
    "an outcome waits for a stream of sessions that share a child": Variant(
        scenarios.a_stream_of_new_grandchildren_delays_their_grandparent,
        [
            Patch(RELEASE, "perform peers._refuse_shared_locks(_new);", ""),
            Patch(RELEASE, "perform peers._refuse_shared_locks(_children);", ""),
        ],
    ),
    "an outcome that was busy does not wait in the queue": Variant(
        scenarios.a_stream_of_new_children_delays_their_parent,
        [Patch(OUTCOMES, "lock table peers.dependency_lock in exclusive mode;", "null;")],
    ),
    "new edges do not wait in the queue": Variant(
        scenarios.a_stream_of_new_children_delays_their_parent,
        [Patch(GRAPH, "perform from peers.dependency_lock for key share;", "")],
    ),
    "siblings are looked at instead of counted": Variant(
        scenarios.parents_that_complete_at_the_same_time,
        [
            Patch(
                RELEASE,
                "t.pending_parents > coalesce(_each, (_decrements -> t.id::text)::integer)",
                _SIBLINGS,
            ),
        ],
    ),
    "parents are not locked by a new edge": Variant(
        scenarios.an_edge_while_its_parent_completes, [Patch(GRAPH, "for share", "")]
    ),
    "the child is not locked by a new edge": Variant(
        scenarios.an_edge_while_its_child_is_claimed,
        [Patch(GRAPH, "order by t.id for no key update", "order by t.id")],
    ),
    "a new child drops the rows of its neighbours": Variant(
        scenarios.a_new_child_drops_its_own_row_only,
        [
            Patch(
                GRAPH,
                "where t.id = last.task_id and t.state = 'blocked'"
                " and t.created_xid = pg_current_xact_id()",
                "where t.id = last.task_id",
                times=2,
            )
        ],
    ),
    "a cancellation does not lock its task": Variant(
        scenarios.a_cancellation_while_its_task_is_claimed,
        [
            Patch(
                "60_operate.sql",
                "from peers.task t where t.id = _id for no key update;",
                "from peers.task t where t.id = _id;",
            ),
            Patch(
                "60_operate.sql", "perform peers._lock_with_descendants(array[cancel.id]);", "null;"
            ),
        ],
    ),
    "edges into older tasks take no turns": Variant(
        scenarios.two_sessions_close_a_long_cycle,
        [
            Patch(
                GRAPH,
                "lock table peers.dependency_lock in share row exclusive mode;",
                "",
            )
        ],
    ),
    "submission assumes that its trigger is first": Variant(
        scenarios.an_edge_before_the_trigger_of_its_childs_submission,
        [Patch(ENQUEUE, "t.id = any (_ids) and t.state = 'ready' and ", "t.id = any (_ids) and ")],
    ),
    "keys go in by the order of the nodes": Variant(
        scenarios.graphs_with_the_same_keys,
        [Patch(INSERT_NODES, """n.node ->> 'idempotency_key' collate "C" nulls last, """, "")],
        psycopg.errors.DeadlockDetected,
    ),
    "a key is looked up once": Variant(
        scenarios.a_keyed_task_is_pruned_while_its_key_is_submitted,
        [Patch(INSERT_NODES, "exit when _missing = '{}';", "exit;")],
    ),
    "the ends of an edge are locked in another order": Variant(
        scenarios.a_cancellation_against_a_late_edge,
        [Patch(GRAPH, "order by t.id for no key update", "order by t.id desc for no key update")],
    ),
    "a cancelled task is locked before those below it": Variant(
        scenarios.a_cancellation_against_a_new_child,
        [
            Patch(
                "60_operate.sql", "perform peers._lock_with_descendants(array[cancel.id]);", "null;"
            )
        ],
        psycopg.errors.DeadlockDetected,
    ),
    "who just came back may judge": Variant(
        scenarios.nobody_judges_after_an_outage,
        [
            Patch(
                "57_reclaim.sql",
                "return greatest(_heartbeat_at + _lease, coalesce(",
                "return least(_heartbeat_at + _lease, coalesce(",
            )
        ],
    ),
    "an outcome waits for locked tasks": Variant(
        scenarios.an_outcome_does_not_wait_for_an_application,
        [
            Patch(
                OUTCOMES,
                "        for no key update skip locked\n    ) t;",
                "        for no key update\n    ) t;",
            ),
            Patch(OUTCOMES, _BATCH_WAIT, "as $$\ndeclare\n    -- it"),
        ],
    ),
    "a death waits for the tasks that it cancels": Variant(
        scenarios.a_death_does_not_wait_for_an_application,
        [Patch(OUTCOMES, _BATCH_WAIT, "as $$\ndeclare\n    -- it")],
    ),
    "children are locked in another order": Variant(
        scenarios.children_are_locked_in_the_order_of_their_ids,
        [
            Patch(
                RELEASE,
                "where t.id = any (_children)\n        returning",
                "from (select unnest(_children) as id order by 1 desc offset 0) c"
                " where t.id = c.id\n        returning",
            )
        ],
    ),
    "the search_path of submission is not pinned": Variant(
        scenarios.a_session_with_another_search_path,
        [
            Patch(VALIDATE, "set search_path = pg_catalog, peers, pg_temp", "", times=4),
            Patch(ENQUEUE, "set search_path = pg_catalog, peers, pg_temp", "", times=3),
            Patch(SUBMIT, "set search_path = pg_catalog, peers, pg_temp", "", times=4),
        ],
        psycopg.errors.RaiseException,
    ),
    "the search_path of edges is not pinned": Variant(
        scenarios.a_session_with_another_search_path,
        [Patch(GRAPH, "    set search_path = pg_catalog, peers, pg_temp\n", "", times=8)],
        psycopg.errors.RaiseException,
    ),
    "rows that were completed before count again": Variant(
        scenarios.a_completed_row_counts_once,
        [Patch(RELEASE, "except select b.id from before_rows b where b.state = 'completed'", "")],
    ),
    "an edge that says run is not marked waived": Variant(
        scenarios.a_waived_edge_stays_waived,
        [
            Patch(
                RELEASE,
                "update peers.dependency d set waived = true\n"
                "            where d.parent_id = any (_failed) and d.on_parent_failure = 'run'"
                " and not d.waived\n            returning d.child_id, d.created_xid",
                "select d.child_id, d.created_xid from peers.dependency d\n"
                "            where d.parent_id = any (_failed) and d.on_parent_failure = 'run'",
            )
        ],
    ),
    "a claim knows nothing of paused graphs": Variant(
        scenarios.a_paused_graph_is_not_claimed,
        [
            Patch(
                CLAIM,
                "exists (select from peers.graph g where g.paused_at is not null), _began",
                "false, _began",
            )
        ],
    ),
    "a claim drops the rows of a paused graph without a lock": Variant(
        scenarios.a_task_becomes_ready_while_its_graph_is_resumed,
        [
            Patch(
                CAREFULLY,
                "\n                        for share skip locked)",
                ")",
            )
        ],
    ),
    "a claim's lock on a paused graph lets a resume pass": Variant(
        scenarios.a_task_becomes_ready_while_its_graph_is_resumed,
        [Patch(CAREFULLY, "for share skip locked", "for key share skip locked")],
    ),
    "a submission does not lock its graph": Variant(
        scenarios.a_graph_is_pruned_while_a_task_is_submitted_to_it,
        [
            Patch(
                GRAPH_TABLE,
                "where g.id = any (_ids) order by g.id for key share;",
                "where g.id = any (_ids);",
            )
        ],
    ),
    "a cancellation locks tasks by their ids alone": Variant(
        scenarios.a_cancellation_locks_running_tasks_first,
        [
            Patch(
                RELEASE,
                "perform from peers.task t where t.id = any (_ids) and t.state = 'running'"
                " order by t.id for no key update;",
                "",
            )
        ],
    ),
    "a graph is cancelled in another order": Variant(
        scenarios.a_graph_is_cancelled_against_a_late_edge,
        [
            Patch(
                RELEASE,
                "peers._affected('{}', '{}', _waiting) f))\n    order by t.id for no key update;",
                "peers._affected('{}', '{}', _waiting) f))\n"
                "    order by t.id desc for no key update;",
            )
        ],
    ),
    "any isolation level will do": Variant(
        scenarios.a_completion_under_an_old_snapshot,
        [Patch(GRAPH, "not in ('read committed', 'read uncommitted')", "= 'none'")],
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_without_its_safeguard_the_scenario_fails(world: World, name: str) -> None:
    """A scenario that passes all the same, or fails for another reason, would prove nothing."""
    variant = VARIANTS[name]
    apply_patches(world.db, variant.patches)
    with pytest.raises(variant.fails_with):
        variant.scenario(world)
