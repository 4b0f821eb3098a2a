"""The scenarios of schedules hold for the SQL as shipped, and fail without a safeguard."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg
import pytest

from tests.sql import schedule_scenarios as scenarios
from tests.support.world import Patch, apply_patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import World

SCENARIOS: Final = {
    name: function
    for name, function in inspect.getmembers(scenarios, inspect.isfunction)
    if list(inspect.signature(function).parameters) == ["world"]
}
FIRE: Final = "65_fire_schedule.sql"
MISSED: Final = "65_missed_runs.sql"
OVERLAP: Final = "65_overlap.sql"
SUBMIT_RUN: Final = "65_submit_run.sql"
EXPECTED: Final = "67_expected_run.sql"
BACKFILL: Final = "66_backfill.sql"
TRIGGERS: Final = "64_schedule.sql"


class Variant(NamedTuple):
    """Patches that take one safeguard out, the scenario that must notice, and how it does."""

    scenario: Callable[[World], None]
    patches: list[Patch]
    fails_with: type[Exception] | tuple[type[Exception], ...] = AssertionError


NO_LEDGER: Final = Patch(
    SUBMIT_RUN,
    "if exists (\n        select from peers.schedule_run r",
    "if false and exists (\n        select from peers.schedule_run r",
)
WAITS: Final = Patch(
    FIRE, "<= _now\n        for update skip locked;", "<= _now\n        for update;"
)

VARIANTS: Final = {
    "a peer waits for another one": Variant(
        scenarios.two_peers_fire_at_once, [WAITS]
    ),
    "a peer waits for who changes": Variant(
        scenarios.a_peer_fires_while_a_schedule_is_changed,
        [WAITS],
    ),
    "a peer waits for who deletes": Variant(
        scenarios.a_peer_fires_while_a_schedule_is_deleted,
        [WAITS],
    ),
    "a peer waits for who pauses": Variant(
        scenarios.a_peer_fires_while_a_schedule_is_paused,
        [WAITS],
    ),
    "next_due_at is not compared": Variant(
        scenarios.a_slow_peer_fires_what_others_have_fired,
        [Patch(FIRE, "and s.next_due_at is not distinct from _fire.next_due_at and", "and")],
    ),
    "the revision is not compared": Variant(
        scenarios.a_schedule_is_changed_before_its_first_time_is_known,
        [Patch(FIRE, " and s.revision = _fire.revision\n", "\n")],
    ),
    "the revision is not compared, and the schedule is another": Variant(
        scenarios.a_schedule_is_replaced_before_its_first_time_is_known,
        [Patch(FIRE, " and s.revision = _fire.revision\n", "\n")],
    ),
    "a change keeps the revision": Variant(
        scenarios.a_schedule_is_changed_before_its_first_time_is_known,
        [Patch(TRIGGERS, "        new.revision := gen_random_uuid();\n", "")],
    ),
    "the ledger is not asked": Variant(scenarios.a_due_time_comes_again, [NO_LEDGER]),
    "nothing is compared": Variant(
        scenarios.two_peers_fire_at_once,
        [
            NO_LEDGER,
            Patch(FIRE, "and s.next_due_at is not distinct from _fire.next_due_at and", "and"),
        ],
    ),
    "a change gives a due time up without a trace": Variant(
        scenarios.a_peer_fires_while_a_schedule_is_changed,
        [Patch(TRIGGERS, "perform peers._record_unfired(old, _now, 'changed')", "null")],
    ),
    "a delete gives a due time up without a trace": Variant(
        scenarios.a_peer_fires_while_a_schedule_is_deleted,
        [Patch(TRIGGERS, "perform peers._record_unfired(old, _now, 'deleted')", "null")],
    ),
    "a peer looks at locked schedules alone": Variant(
        scenarios.hundreds_of_schedules_are_locked,
        [Patch("65_due_schedules.sql", "    if _unlocked then", "    if false then")],
    ),
    "a peer waits for who has locked hundreds": Variant(
        scenarios.hundreds_of_schedules_are_locked,
        [Patch("65_due_schedules.sql", "for share skip locked", "for share")],
    ),
    "a peer that declares waits for who has locked one": Variant(
        scenarios.a_schedule_is_locked_while_a_peer_declares_it,
        [Patch("69_declare_schedule.sql", "for update nowait", "for update"),
         Patch("69_declare_schedule.sql", "lock_timeout = '100ms'", "lock_timeout = '9s'")],
    ),
    "a peer that declares waits for each one that is added": Variant(
        scenarios.hundreds_of_schedules_are_added_while_a_peer_declares_them,
        [Patch("69_declare_schedule.sql",
               "perform set_config('lock_timeout', '1ms', true)", "null")],
    ),
    "a pause is forgotten at its end": Variant(
        scenarios.a_pause_ends_before_a_peer_looks,
        [Patch(MISSED, " or _due_at < _schedule.resumed_at", "")],
    ),
    "a schedule is paused, and fires": Variant(
        scenarios.a_peer_fires_while_a_schedule_is_paused,
        [Patch(MISSED, "when _schedule.paused_at is not null or", "when")],
    ),
    "a refused task takes the others along": Variant(
        scenarios.a_task_refuses_to_be_submitted,
        [Patch(FIRE, "perform peers._contain_error(sqlstate, sqlerrm);", "raise;")],
        psycopg.errors.RaiseException,
    ),
    "a peer waits for each locked run": Variant(
        scenarios.earlier_runs_are_locked,
        [Patch(FIRE, "perform set_config('peers.lock_timed_out', 'on', true)", "null")],
    ),
    "a peer waits for a locked run as long as it may": Variant(
        scenarios.earlier_runs_are_locked,
        [Patch(OVERLAP, "    set lock_timeout = '25ms'\n", "")],
    ),
    "a peer does not wait for a moment": Variant(
        scenarios.a_run_ends_while_its_schedule_fires,
        [Patch(OVERLAP, "and not _may_wait then", "then")],
    ),
    "a peer waits for who has locked a backfill's task": Variant(
        scenarios.the_last_task_of_a_backfill_is_locked,
        [Patch(BACKFILL, "perform peers._lock_runs(_parents, false)", "null")],
    ),
    "a peer waits for who has deleted an alert": Variant(
        scenarios.an_alert_is_locked,
        [Patch(EXPECTED, "for update skip locked;\n    if not found then\n        return false",
               "for update;\n    if not found then\n        return false")],
    ),
    "a peer that raises an alert waits for who has deleted it": Variant(
        scenarios.an_alert_is_locked,
        [Patch(EXPECTED, "    if exists (select from peers.alert a where a.alert = 'schedule_late'"
               " and a.subject = _schedule.name)", "    if false")],
    ),
    "a peer waits for another one's backfill": Variant(
        scenarios.two_peers_continue_a_backfill,
        [Patch(BACKFILL, "_step.revision for update skip locked", "_step.revision for update")],
    ),
    "a backfill does not compare where it is": Variant(
        scenarios.two_peers_continue_a_backfill,
        [
            Patch(BACKFILL, " and b.done_until is not distinct from _step.done_until\n", "\n"),
            NO_LEDGER,
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_must_hold_holds(world: World, name: str) -> None:
    """See the scenario's own docstring."""
    scenario: Callable[[World], None] = SCENARIOS[name]
    scenario(world)


@pytest.mark.parametrize("name", VARIANTS)
def test_without_the_safeguard_it_does_not(world: World, name: str) -> None:
    """The scenario notices that the safeguard is missing."""
    variant = VARIANTS[name]
    apply_patches(world.db, variant.patches)
    with pytest.raises(variant.fails_with):
        variant.scenario(world)
