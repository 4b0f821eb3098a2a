"""peers.demand: how many slots are of use now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.world import Peer, advance, rows, run, submit, value

if TYPE_CHECKING:
    from tests.support.server import Connection


def demand(db: Connection, queue: str = "default") -> dict[str, Any]:
    """Return the row of a queue, without what is 0 or false."""
    [found] = rows(db, "select * from peers.demand where queue = %s", queue)
    return {name: each for name, each in found.items() if each and name != "queue"}


def test_ready_and_running_tasks_want_slots(db: Connection) -> None:
    """Beside the slots that live peers have; a lost peer has none."""
    assert rows(db, "select from peers.demand") == []
    for _ in range(5):
        submit(db)
    assert demand(db) == {"wanted": 5, "startable": 5}
    peer = Peer.join(db)
    peer.claim(2)
    assert demand(db) == {"wanted": 5, "startable": 3, "running": 2, "slots": 8, "peers": 1}
    advance(db, "10 minutes")
    assert demand(db) == {"wanted": 5, "startable": 3, "running": 2}


def test_what_waits_for_something_else_wants_none(db: Connection, peer: Peer) -> None:
    """Blocked and scheduled tasks do not; those that are due within a minute are shown."""
    parent = submit(db)
    submit(db, depends_on=[parent])
    for minutes in (0.5, 5):
        run(
            db, "select peers.submit('a', scheduled_at => now() + %s * interval '1 minute')",
            minutes,
        )  # fmt: skip
    assert demand(db) == {"wanted": 1, "startable": 1, "due_soon": 1, "slots": 8, "peers": 1}
    peer.complete(*peer.claim())
    assert demand(db)["wanted"] == 1


def test_pauses_keep_tasks_from_wanting_slots(db: Connection, peer: Peer) -> None:
    """A paused queue wants what it runs, a paused graph nothing; stale rows do not count."""
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    submit(db, graph_id=graph)
    gone = submit(db)
    submit(db)
    run(db, "select peers.cancel(%s)", gone)
    assert demand(db)["wanted"] == 2
    run(db, "select peers.pause_graph(%s)", graph)
    assert demand(db)["wanted"] == 1
    peer.claim()
    submit(db)
    run(db, "select peers.pause('default')")
    assert demand(db) == {"wanted": 1, "running": 1, "slots": 8, "peers": 1, "paused": True}


def limited(db: Connection, **limit: object) -> None:
    """Create a limit."""
    names, marks = ", ".join(limit), ", ".join(["%s"] * len(limit))
    run(db, f"insert into peers.limit ({names}) values ({marks})", *limit.values())


def accounts(db: Connection, keys: int, each: int, queue: str = "default") -> None:
    """Submit tasks of kind a for some accounts."""
    run(
        db, "insert into peers.task (kind, queue, args)"
        " select 'a', %s, jsonb_build_object('account', n %% %s) from generate_series(1, %s) n",
        queue, keys, keys * each,
    )  # fmt: skip


@pytest.mark.parametrize("moved", [True, False])
def test_a_limit_keeps_tasks_from_wanting_slots(db: Connection, peer: Peer, moved: bool) -> None:
    """Of each key as many want one as may start, whether the tasks wait in ready or were moved."""
    if moved:
        limited(db, name="l", kind="a", key="account", max_running=2)
    accounts(db, keys=5, each=10)
    if not moved:
        limited(db, name="l", kind="a", key="account", max_running=2)
    assert demand(db)["startable"] == 10
    submit(db, "other")
    assert demand(db)["startable"] == 11
    limited(db, name="all", queue="default", max_running=4)
    run(db, "select peers.place_limited(10000)")
    assert demand(db)["startable"] == 4
    run(db, "delete from peers.limit where name = 'all'")
    run(db, "select peers.place_limited(10000)")
    run(db, "select peers.shut_limit('l')")
    assert demand(db)["startable"] == 1
    run(db, "select peers.open_limit('l')")
    query = "select task_ids from peers.claim_limited(%s, 'default', 100, 100)"
    claimed = 0
    while found := [ids for each in rows(db, query, peer.id) if (ids := each["task_ids"])]:
        claimed += sum(map(len, found))
    assert claimed == 10
    assert {name: demand(db).get(name) for name in ("running", "startable")} == {
        "running": 10, "startable": 1,
    }  # fmt: skip


def test_a_task_under_two_limits_wants_what_both_allow(db: Connection) -> None:
    """The smaller one decides: five keys of two each, but seven together."""
    limited(db, name="each", kind="a", key="account", max_running=2)
    limited(db, name="together", kind="a", max_running=7)
    accounts(db, keys=5, each=10)
    assert demand(db)["startable"] == 7


def test_counting_stops(db: Connection) -> None:
    """A hundred thousand ready tasks are counted as ten thousand."""
    run(db, "insert into peers.task (kind) select 'a' from generate_series(1, 100000)")
    run(db, "analyze peers.task, peers.ready")
    assert demand(db)["startable"] == 10_000


def test_readers_may_ask(db: Connection) -> None:
    """A scaler needs no more than the role peers_reader."""
    submit(db)
    run(db, "set role peers_reader")
    assert value(db, "select wanted from peers.demand where queue = 'default'") == 1
