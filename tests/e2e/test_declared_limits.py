"""Limits in code with real peers: declared at the start, kept, changed, shut by a handler."""

from __future__ import annotations

import pytest

from tests.e2e import ledger
from tests.e2e.harness import Stage
from tests.e2e.limits_chaos import most_at_once

APP = "tests.e2e.app_declared_limits"
ALL_DECLARED = "select count(*) = 4 from peers.limit"


def intervals(stage: Stage) -> list[tuple[int, int]]:
    """Return when each handler began and ended."""
    times: dict[tuple[object, ...], list[int]] = {}
    for entry in ledger.read(stage.ledger):
        times.setdefault((*entry.lease, entry.pid), []).append(entry.at)
    return [(each[0], each[-1]) for each in times.values()]


def test_limits_of_the_code_are_declared_and_hold(stage: Stage) -> None:
    """In all peers together; what an operator changes stays over a restart, and is shown."""
    first = stage.peer(APP, slots=4)
    stage.until_true(ALL_DECLARED)
    first.await_event("limit_declared", 4)
    assert {each["limit"] for each in first.events("limit_declared")} == {
        "declared.charge", "declared all", "api", "other api",
    }  # fmt: skip
    second = stage.peer(APP, slots=4)
    stage.until_true("select bool_and(declaring_peers = 2) from peers.limit_status")
    assert second.events("limit_declared") == []
    stage.db.execute(
        "insert into peers.task (kind, args)"
        " select 'declared.charge', jsonb_build_object('account', n % 5)"
        " from generate_series(1, 100) n"
    )
    stage.until_ended()
    assert most_at_once(intervals(stage)) == 3
    stage.db.execute("update peers.limit set max_running = 7 where name = 'api'")
    first.terminate()
    third = stage.peer(APP)
    stage.until_true("select bool_and(declaring_peers = 2) from peers.limit_status")
    shown = stage.row("select * from peers.limit_status where name = 'api'")
    assert (shown["max_running"], shown["changed_by_operator"]) == (7, True)
    assert third.events("limit_declared") == []


def test_a_handlers_cooldown_stops_all_tasks_of_its_limit(stage: Stage) -> None:
    """None starts before its end, and half as many may run afterwards."""
    stage.peer(APP, slots=2)
    stage.until_true(ALL_DECLARED)
    task = stage.submit("declared.call", {"refused": True})
    stage.until_true("select shut_until is not null from peers.limit where name = 'api'")
    others = [stage.submit("declared.call") for _ in range(5)]
    stage.until_ended()
    shut = stage.row("select * from peers.limit where name = 'api'")
    assert (shut["shut_because"], shut["learned"]) == ("HTTP 429", 4)
    for other in others:
        assert stage.task(other)["started_at"] >= shut["shut_until"]
    assert stage.task(task)["attempt"] == 1
    async_task = stage.submit("declared.call_async")
    stage.until_state("completed", async_task)
    assert 50 < stage.task(async_task)["result"] <= 60


def test_a_handler_changes_a_limit(stage: Stage) -> None:
    """Through its peer, at most once."""
    stage.peer(APP)
    stage.until_true(ALL_DECLARED)
    task = stage.submit("declared.lower")
    stage.until_state("completed", task)
    assert stage.task(task)["result"] is False
    row = stage.row("select max_running from peers.limit where name = 'declared all'")
    assert row["max_running"] == 1


def test_a_key_that_leads_nowhere_is_told_at_the_start(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A peer with such an app does not start, and says why."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "wrong_key.py").write_text(
        "from peers import Limit, task\n"
        "@task('wrong', limit=Limit(2, key='acount'))\n"
        "def wrong(account: int): ...\n"
    )
    peer = stage.launch_in(stage.environment("wrong_key") | {"PYTHONPATH": str(folder)})
    assert peer.wait() == 78
    assert "key 'acount' of a limit of 'wrong' leads nowhere" in peer.log.read_text()


def test_a_refused_declaration_is_logged(stage: Stage) -> None:
    """The other limits are declared, and the peer runs."""
    for n in range(4):
        stage.db.execute(
            "insert into peers.limit (name, kind, max_running) values (%s, 'declared.call', 1)",
            [f"l{n}"],
        )
    peer = stage.peer(APP)
    stage.until_true("select count(*) = 7 from peers.limit")
    refused = peer.await_event("limit_refused")
    assert refused["limit"] == "api"
    assert "at most 4 limits" in refused["error"]
    task = stage.submit("declared.call")
    stage.until_state("completed", task)
