"""Limits hold in every interleaving, and each safeguard is needed for that."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tests.sql import limit_scenarios as scenarios
from tests.support.world import Patch, apply_patches, refusal, rows, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection
    from tests.support.world import World


LIMIT: Final = "28_limit.sql"
ROOM: Final = "48_count_room.sql"
FIND: Final = "48_find_keys.sql"
SHARE: Final = "48_share_slots.sql"
CLAIM: Final = "49_claim_under_limits.sql"
START: Final = "49_start_limited.sql"
CAREFUL: Final = "49_start_limited_carefully.sql"
STARTS: Final = "49_limit_starts.sql"
OPERATE: Final = "60_operate.sql"
EXPLAIN: Final = "83_explain_limit.sql"

SCENARIOS = {
    name: function
    for name, function in inspect.getmembers(scenarios, inspect.isfunction)
    if list(inspect.signature(function).parameters) == ["world"]
}


class Variant(NamedTuple):
    """Patches that take one safeguard out, and the scenario that must notice."""

    scenario: Callable[[World], None]
    patches: list[Patch]


VARIANTS = {
    "claims do not lock": Variant(
        scenarios.two_claims_share_a_key,
        [Patch(SHARE, "if not pg_try_advisory_xact_lock(", "if false and pg_try_advisory_lock(")],
    ),
    "claims do not count again after the lock": Variant(
        scenarios.a_claim_counts_again_after_the_lock,
        [
            Patch(
                SHARE,
                "select r.room from unnest(peers._limit_rooms(_rules[_i], _numbers, _own, "
                "claimed_at)) with ordinality\n"
                "                r(room, running, opens_at, n) order by r.n",
                "select k.room from unnest(_own) o(key) join unnest(keys) k"
                " on o.key = k.limit_keys[1]",
            )
        ],
    ),
    "the count sees the snapshot of the lock": Variant(
        scenarios.a_claim_counts_again_after_the_lock,
        [
            Patch(ROOM, "returns peers.limit_room[]\n    language plpgsql volatile",
                  "returns peers.limit_room[]\n    language plpgsql stable", times=2),
            Patch(
                SHARE,
                "out busy boolean, out slots_short boolean, out claimed_at timestamptz\n)\n"
                "    language plpgsql volatile",
                "out busy boolean, out slots_short boolean, out claimed_at timestamptz\n)\n"
                "    language plpgsql stable",
            ),
        ],
    ),
    "tasks that another claim moves are not waited for": Variant(
        scenarios.a_claim_moves_tasks_that_another_one_wants,
        [Patch(CLAIM, "return _moved = 0 or _moved >= _most;", "return false;")],
    ),
    "a claim begins at a random key": Variant(
        scenarios.a_key_whose_task_has_ended_is_tried_first,
        [Patch(FIND, "if _try <> '{}' then", "if false then")],
    ),
    "a claim takes the tasks that it has not tried for tried": Variant(
        scenarios.a_claim_without_time_has_not_tried_each_task,
        [Patch(CAREFUL, "or _tasks.ids is not null or", "or")],
    ),
    "a claim takes a key whose rows it has dropped for empty": Variant(
        scenarios.a_claim_without_time_has_only_dropped_rows,
        [Patch(CAREFUL, "and (_step.changed or", "and (")],
    ),
    "a claim takes the keys that it has not looked at for full": Variant(
        scenarios.keys_that_share_a_limit_hide_a_free_one,
        [Patch(CLAIM, "when _look.any_unseen and slots_left then 'more'\n", "\n")],
    ),
    "a limit is checked alone": Variant(
        scenarios.a_task_is_under_all_of_its_limits,
        [Patch(SHARE, "if rooms[array_position(_limit_keys, _one)] < 1 then", "if false then")],
    ),
    "tasks from before the limit do not count": Variant(
        scenarios.tasks_that_run_already_count_for_a_new_limit,
        [Patch(ROOM, "when _any_before then", "when false then")],
    ),
    "a change of args leaves its row": Variant(
        scenarios.a_changed_task_waits_under_its_new_key,
        [Patch(OPERATE, "or _before.args <> _task.args and exists (",
               "or false and exists (")],
    ),
    "a claim does not compare the key": Variant(
        scenarios.a_task_changes_while_its_key_is_claimed,
        [
            Patch(START, "and (not _rules.keyed or _hashes", "and (true or _hashes"),
        ],
    ),
    "limited tasks go after the others": Variant(
        scenarios.the_more_urgent_go_first,
        [Patch(SHARE, "where (h.priority, h.position) < (k.priority, k.position)\n", "\n")],
    ),
    "waiting tasks of a lease count": Variant(
        scenarios.limited_tasks_are_not_claimed_in_advance,
        [Patch(ROOM, "least(l.open, l.most_running)", "l.open", times=2)],
    ),
    "an open claim is taken for a session that holds a lock": Variant(
        scenarios.explain_names_who_holds_the_lock_of_a_key,
        [Patch(EXPLAIN, "(a.xact_start > clock_timestamp() - _longest) is not true", "true")],
    ),
    "a long window is not folded": Variant(
        scenarios.a_long_window_is_folded,
        [Patch(STARTS, "_most_rows constant integer := 1000;", "_most_rows integer := 9999;")],
    ),
    "folded starts have the time of the earliest": Variant(
        scenarios.a_long_window_is_folded,
        [Patch(STARTS, "max(f.started_at)", "min(f.started_at)")],
    ),
    "old layouts are claimed": Variant(
        scenarios.a_backlog_is_moved_in_batches,
        [
            Patch(LIMIT, "new.seed := (random() * 18e18 - 9e18)::bigint;", "null;"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_must_hold_holds(world: World, name: str) -> None:
    """See the scenario's own docstring."""
    SCENARIOS[name](world)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_safeguard_is_needed(world: World, name: str) -> None:
    """The scenario fails without it."""
    scenario, patches = VARIANTS[name]
    apply_patches(world.db, patches)
    with pytest.raises(AssertionError):
        scenario(world)


def test_a_claim_whose_time_is_over_says_that_there_is_more(world: World) -> None:
    """A task that has left its key stood first: the one behind it is found by the next claim."""
    over = [
        Patch(CAREFUL, "clock_timestamp() < _call.until", "false"),
        Patch(CAREFUL, "clock_timestamp() > _call.until", "true"),
    ]
    apply_patches(world.db, over)
    scenarios.limit(world.db, key="account", max_running=1)
    first, second = scenarios.accounts(world.db, 2, 2)
    with world.db.transaction():
        run(world.db, "set local search_path = pg_catalog, peers, pg_temp")
        run(world.db, "update peers.task set args = '{\"account\": 1}' where id = %s", first)
    peer = world.peer()
    query = "select task_ids, waits from peers.claim_limited(%s, 'default', 1, 1)"
    assert [row["waits"] for row in rows(world.db, query, peer.id)] == ["more"]
    assert rows(world.db, query, peer.id)[0]["task_ids"] == [second]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"kind": "k"}, "a limit needs max_running, or starts and per, or fair"),
        ({"kind": "k", "queue": "q", "max_running": 1}, "give either a kind or a queue"),
        ({"max_running": 1}, "this limit has none"),
        ({"name": None, "kind": "k", "max_running": 1}, "name must have 1 to 200 characters"),
        ({"kind": "k", "key": "args->>account", "max_running": 1}, "key must be a path into args"),
        ({"kind": "k", "key": "$.account", "max_running": 1}, "key must be a path into args"),
        ({"kind": "k", "key": "a..b", "max_running": 1}, "key must be a path into args"),
        ({"kind": "k", "key": "", "max_running": 1}, "key must be a path into args"),
        ({"kind": "k", "max_running": 0}, "max_running must be 1 to 1000000, not 0"),
        ({"kind": "k", "starts": 3}, "starts and per belong together"),
        ({"kind": "k", "starts": 3, "per": "1 month"}, "per must be 10 milliseconds to 30 days"),
        ({"kind": "k", "starts": 0, "per": "1 s"}, "starts must be 1 to 1000000, not 0"),
        ({"kind": "k", "fair": True}, "fair needs a key"),
        ({"kind": "k", "weight": "w"}, "weight needs max_running"),
        ({"kind": "k", "starts": 1, "per": "1 s", "learns": True}, "learns needs max_running"),
        ({"kind": "", "max_running": 1}, "kind and queue must have 1 to 200 characters"),
    ],
)
def test_a_malformed_limit_is_refused(
    db: Connection, columns: dict[str, object], reason: str
) -> None:
    """With the reason and an example."""
    given = {"name": "l", **columns}
    insert = (
        f"insert into peers.limit ({', '.join(given)}) values ({', '.join(['%s'] * len(given))})"
    )
    code, said = refusal(db, insert, *given.values())
    assert code == "PE014"
    assert reason in said
    assert "For example: INSERT INTO peers.limit" in said


def test_at_most_four_limits_hold_for_a_task(db: Connection) -> None:
    """Of its kind and of its queue together."""
    for n in range(3):
        scenarios.limit(db, f"kind {n}", key=f"k{n}", max_running=1)
    scenarios.limit(db, "queue", kind=None, queue="default", max_running=1)
    code, said = refusal(
        db, "insert into peers.limit (name, kind, max_running) values ('fifth', 'a', 1)"
    )
    assert (code, "at most 4 limits" in said) == ("PE014", True)
    assert "delete one that peers.limit_status lists" in said
    scenarios.limit(db, "other", kind="b", max_running=1)
