"""What code, operators and handlers do with limits: declare, set, remove, shut, open, cooldown."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.sql.limit_scenarios import accounts, claim_limited, limit
from tests.support.world import (
    Patch,
    Peer,
    apply_patches,
    column,
    refusal,
    result,
    row,
    rows,
    run,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection
    from tests.support.world import World

MOST = "select max_running from peers.limit where name = 'l'"
DECLARED = {"name": "l", "kind": "a", "max_running": 3}


def declare(db: Connection, *limits: dict[str, Any], peer: Peer | None = None) -> list[Any]:
    """Declare limits, as a peer does; return what has become of them."""
    peer_id = (peer or Peer.join(db)).id
    declared = rows(
        db, "select * from peers.declare_limits(%s, %s::jsonb)", peer_id, json.dumps(limits)
    )
    return [(each["limit_name"], each["change"]) for each in declared]


def status(db: Connection) -> dict[str, Any]:
    """Return what the view says of the only limit."""
    return row(db, "select * from peers.limit_status")


def test_a_declaration_that_did_not_change_changes_nothing(db: Connection) -> None:
    """What an operator changed is kept, and shown, until the code says something else."""
    assert declare(db, DECLARED) == [("l", "created")]
    assert value(db, MOST) == 3
    changed_at = status(db)["changed_at"]
    run(db, "update peers.limit set max_running = 7")
    assert status(db)["changed_by_operator"]
    assert declare(db, DECLARED) == []
    assert value(db, MOST) == 7
    assert declare(db, {**DECLARED, "max_running": 4}) == [("l", "changed")]
    assert value(db, MOST) == 4
    shown = status(db)
    assert (shown["changed_by_operator"], shown["declared_in_code"]) == (False, True)
    assert shown["changed_at"] > changed_at
    assert shown["declaring_peers"] == 3


def test_a_period_is_compared_as_a_time(db: Connection) -> None:
    """The same period in other words is the same declaration."""
    base = {"name": "l", "kind": "a", "starts": 5}
    declare(db, {**base, "per": "60 seconds"})
    assert declare(db, {**base, "per": "1 minute"}) == []
    assert not status(db)["changed_by_operator"]


def test_a_field_that_is_no_longer_declared_is_cleared(db: Connection) -> None:
    """The declaration is the whole limit."""
    declare(db, {**DECLARED, "key": "account", "fair": True})
    declare(db, DECLARED)
    assert row(db, "select key, fair from peers.limit") == {"key": None, "fair": False}


def test_a_shut_limit_stays_shut_when_it_is_declared_again(db: Connection) -> None:
    """A deployment does not open what an operator has shut."""
    declare(db, DECLARED)
    run(db, "select peers.shut_limit('l')")
    declare(db, {**DECLARED, "max_running": 4})
    assert value(db, "select shut_until = 'infinity' from peers.limit")


def test_a_refused_declaration_leaves_the_others(db: Connection) -> None:
    """It says why; nothing of it is written."""
    for n in range(4):
        limit(db, f"queue {n}", kind=None, queue="default", max_running=1)
    peer = Peer.join(db)
    found = rows(
        db,
        "select * from peers.declare_limits(%s, %s)",
        peer.id,
        json.dumps([DECLARED, {"name": "m", "queue": "other", "max_running": 1}]),
    )
    assert [(each["limit_name"], each["change"]) for each in found] == [
        ("l", "refused"), ("m", "created"),
    ]  # fmt: skip
    assert "at most 4 limits" in found[0]["error"]
    [strange] = rows(
        db, "select * from peers.declare_limits(%s, %s)", peer.id, '[{"name": "x", "colour": 1}]'
    )
    assert strange["error"].startswith("a limit has no field colour; its fields are name, kind, ")
    assert column(db, "select name from peers.limit where kind = 'a'") == []


def test_two_peers_declare_at_the_same_time(world: World) -> None:
    """The second one waits for the first, and changes nothing."""
    first, second = world.connect(), world.connect()
    peers = [Peer.join(first).id, Peer.join(second).id]
    query = "select limit_name, change, error from peers.declare_limits(%s, %s)"
    with first.transaction():
        run(first, query, peers[0], json.dumps([DECLARED]))
        waiting = world.background(lambda: rows(second, query, peers[1], json.dumps([DECLARED])))
        world.until_waiting(second)
    assert [each["error"] for each in result(waiting)] == [None]
    assert status(world.db)["declaring_peers"] == 2
    assert value(world.db, MOST) == 3


def test_two_sessions_create_the_same_limit(world: World) -> None:
    """The second one overwrites it."""
    first, second = world.connect(), world.connect()
    set_ = "select peers.set_limit('l', %s)"
    with first.transaction():
        run(first, set_, '{"kind": "a", "max_running": 3}')
        waiting = world.background(lambda: value(second, set_, '{"kind": "a", "max_running": 4}'))
        world.until_waiting(second)
    assert result(waiting) is True
    assert value(world.db, MOST) == 4


VARIANTS: dict[str, tuple[Callable[..., None], Patch]] = {
    "a declaration always overwrites": (
        test_a_declaration_that_did_not_change_changes_nothing,
        Patch(
            "28_declare_limit.sql",
            "where l.name = _new.name and l.declared = _settings\n",
            "where false\n",
        ),
    ),
    "one refused declaration fails all": (
        test_a_refused_declaration_leaves_the_others,
        Patch(
            "28_declare_limit.sql",
            "exception when sqlstate 'PE014' then",
            "exception when sqlstate 'PE999' then",
        ),
    ),
    "an insert fails if another session was first": (
        test_two_sessions_create_the_same_limit,
        Patch(
            "28_declare_limit.sql",
            "    on conflict (name) do update  -- another session has created it just now\n"
            "    set queue = excluded.queue, kind = excluded.kind, key = excluded.key, "
            "max_running = excluded.max_running,\n"
            "        starts = excluded.starts, per = excluded.per, weight = excluded.weight, "
            "fair = excluded.fair,\n"
            "        learns = excluded.learns;\n",
            ";\n",
        ),
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_safeguard_is_needed(world: World, name: str) -> None:
    """The test fails without it."""
    test, patch = VARIANTS[name]
    apply_patches(world.db, [patch])
    with pytest.raises((AssertionError, psycopg.Error)):
        test(world.db if next(iter(inspect.signature(test).parameters)) == "db" else world)


def test_set_limit_keeps_what_it_is_not_given(db: Connection) -> None:
    """Null clears a value; a bad value changes nothing."""
    set_ = "select peers.set_limit('l', %s)"
    assert value(db, set_, '{"kind": "a", "max_running": 3, "key": "k", "fair": true}') is True
    assert value(db, set_, '{"max_running": 4}') is False
    assert row(db, "select key, fair, max_running, declared from peers.limit") == {
        "key": "k", "fair": True, "max_running": 4, "declared": None,
    }  # fmt: skip
    run(db, set_, '{"key": null, "fair": false}')
    assert row(db, "select key, fair, max_running from peers.limit") == {
        "key": None, "fair": False, "max_running": 4,
    }  # fmt: skip
    for settings, reason in (
        ('{"max_running": 0}', "max_running must be 1 to 1000000, not 0"),
        ('{"max_running": null}', "a limit needs max_running"),
        ('{"colour": 1}', "a limit has no field colour; its fields are name, kind, queue, key, "),
        ('{"shut_until": "infinity"}', "a limit has no field shut_until"),
    ):
        code, said = refusal(db, set_, settings)
        assert (code, reason in said) == ("PE014", True), said
        assert "INSERT" not in said
    assert value(db, MOST) == 4


def test_a_limit_that_does_not_exist(db: Connection) -> None:
    """Every verb says so."""
    for verb in ("remove_limit", "shut_limit", "open_limit", "limit_keys"):
        code, said = refusal(db, f"select peers.{verb}('none')")
        assert (code, 'there is no limit "none"' in said) == ("PE015", True), verb


def test_a_shut_limit_lets_no_task_start(world: World) -> None:
    """Until its time, or until it is opened. It does not learn from that."""
    limit(world.db, max_running=8, learns=True)
    for _ in range(3):
        submit(world.db)
    peer = world.peer()
    run(world.db, "select peers.shut_limit('l', peers.now() + interval '30 s', 'maintenance')")
    assert claim_limited(peer).ids == []
    peer.advance_steadily(31)
    assert len(claim_limited(peer, 1).ids) == 1
    run(world.db, "select peers.shut_limit('l')")
    assert claim_limited(peer).ids == []
    assert value(world.db, "select peers.open_limit('l')") is True
    assert value(world.db, "select peers.open_limit('l')") is False
    assert len(claim_limited(peer).ids) == 2
    assert value(world.db, "select learned from peers.limit") is None
    assert status(world.db)["most_now"] == 8


def test_a_cooldown_of_a_limit_that_an_operator_has_shut(world: World) -> None:
    """The limit stays shut without an end, and handlers ask again after a day."""
    limit(world.db, max_running=8, learns=True)
    start = "select peers.start_cooldown('l', '30 s')"
    run(world.db, start)
    run(world.db, "select peers.shut_limit('l')")
    assert value(world.db, start).total_seconds() == 86400
    assert value(world.db, "select peers.cooldown_left('l')").total_seconds() == 86400
    assert value(world.db, "select shut_until = 'infinity' from peers.limit")
    assert value(world.db, "select most_now from peers.limit_status") == 4


def test_a_handlers_cooldown_shuts_the_limit_of_its_task(world: World) -> None:
    """Half as many tasks run afterwards. It needs a name if there are none or several."""
    limit(world.db, "stripe", max_running=8, learns=True)
    task = submit(world.db)
    shut = "select peers.shut_limit_of_task(%s, '30 s', 'HTTP 429')"
    assert value(world.db, shut, task).total_seconds() == 30
    shown = row(
        world.db,
        "select shut_until - peers.now() as left, shut_because, most_now from peers.limit_status",
    )
    assert 29 < shown["left"].total_seconds() <= 30
    assert (shown["shut_because"], shown["most_now"]) == ("HTTP 429", 4)
    limit(world.db, "queue", kind=None, queue="default", max_running=8)
    code, said = refusal(world.db, shut, task)
    assert (code, "is under several limits: queue, stripe" in said) == ("PE014", True)
    other = submit(world.db, "b", queue="other")
    code, said = refusal(world.db, shut, other)
    assert (code, "is under no limit" in said) == ("PE014", True)


def test_limit_keys_shows_what_runs_and_waits(world: World) -> None:
    """By value, the most waiting first; also if another limit holds for the same tasks."""
    limit(world.db, "account", key="account", max_running=2, starts=5, per="1 hour")
    limit(world.db, "all", kind=None, queue="default", max_running=100)
    accounts(world.db, 7, 7, 7, 7, 8)
    submit(world.db)
    peer = world.peer()
    claim_limited(peer)
    keys = rows(world.db, "select * from peers.limit_keys('account')")
    assert [tuple(each.values()) for each in keys] == [
        ("7", 2, 2, None, 2, None, None),
        ("8", 1, 0, None, 1, None, None),
        (None, 1, 0, None, 1, None, None),
    ]  # fmt: skip
    [whole] = rows(world.db, "select * from peers.limit_keys('all')")
    assert tuple(whole.values()) == (None, 4, 2, None, None, None, None)
    assert len(rows(world.db, "select * from peers.limit_keys('account', 1)")) == 1
    run(world.db, "update peers.limit set weight = 'account' where name = 'account'")
    weights = column(world.db, "select weight from peers.limit_keys('account')")
    assert weights == [4, 2, 1], "each task counts for no more than the limit itself"


def test_limit_keys_names_the_session_that_has_locked_a_key(world: World) -> None:
    """First, however few of its tasks wait, and no other key; a claim is not named."""
    limit(world.db, "l", key="account", max_running=2)
    *_, last = accounts(world.db, 7, 7, 7, 8)
    peer, application = world.peer(), world.connect()
    run(application, "set application_name = 'nightly export'")
    run(
        application,
        "select pg_advisory_lock(1886152051, (limit_keys[1] >> 32)::integer)"
        " from peers.ready_limited where task_id = %s",
        last,
    )
    query = "select key, locked_by, locked_by_application from peers.limit_keys('l', %s)"
    with peer.db.transaction():
        assert len(claim_limited(peer, 1).ids) == 1
        found = [tuple(each.values()) for each in rows(world.db, query, 10)]
    pid = application.info.backend_pid
    assert found == [("8", pid, "nightly export"), ("7", None, None)]
    assert len(rows(world.db, query, 1)) == 1
    run(application, "select pg_advisory_unlock_all()")
    assert column(world.db, "select locked_by from peers.limit_keys('l')") == [None, None]


@pytest.mark.parametrize("role", ["peers_operator", "peers_reader"])
def test_who_reads_sees_limits(db: Connection, role: str) -> None:
    """The views need no more than these roles have."""
    limit(db, "l", max_running=3)
    run(db, f"set role {role}")
    assert value(db, "select most_now from peers.limit_status") == 3
    assert rows(db, "select * from peers.limit_keys('l')") == []
