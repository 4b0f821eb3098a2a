"""Verbs that act on many tasks: their filters, what they change, and what peers.action says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.support.world import (
    Peer,
    advance,
    column,
    problems,
    refusal,
    row,
    rows,
    run,
    state,
    states,
    submit,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "/srv/app/shop/tasks.py", line 42, in charge\n    pay()\nOSError: bad\n'
)


def act(db: Connection, verb: str, filters: dict[str, Any], **options: object) -> dict[str, Any]:
    """Call a bulk verb, and return its row."""
    named = "".join(f", {name} => %s" for name in options)
    query = f"select * from peers.{verb}(%s::jsonb{named})"
    return row(db, query, json.dumps(filters), *options.values())


def died(peer: Peer, kind: str = "a", error: str = "bad", **options: Any) -> int:
    """Return a new dead letter."""
    task_id = submit(peer.db, kind, **options)
    peer.fail(*peer.claim(), reject=True, error_message=error, traceback=TRACEBACK)
    return task_id


@pytest.fixture
def letters(db: Connection) -> dict[str, int]:
    """Dead letters that differ in one way each from the first one."""
    peer = Peer.join(db, "a", "b", queues=("default", "media"))
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    found = {"plain": died(peer)}
    advance(db, "1 hour")
    peer.heartbeat()
    found["other kind"] = died(peer, "b")
    found["other error"] = died(peer, error="Broken PIPE")
    found["in a graph"] = died(peer, graph_id=graph)
    task_id = submit(db, queue="media")
    peer.fail(*peer.claim(queue="media"), reject=True, error_type="crash", error_message="SIGKILL")
    found["other queue and type"] = task_id
    return found


FILTERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "kind": ({"kind": "b"}, {"other kind"}),
    "queue": ({"queue": "media"}, {"other queue and type"}),
    "error_type": ({"error_type": "crash"}, {"other queue and type"}),
    "error": ({"error": "oops: broken pipe"}, {"other error"}),
    "error_is_no_pattern": ({"error": "br%ken"}, set()),
    "frame": (
        {"frame": "shop/tasks.py:42 in charge", "error": "bad"},
        {"plain", "other kind", "in a graph"},
    ),
    "graph": ({"graph": "GRAPH"}, {"in a graph"}),
    "since": ({"since": "SINCE"}, {"other kind", "other error", "in a graph",
                                   "other queue and type"}),
    "until": ({"until": "SINCE"}, {"plain"}),
    "ids": ({"ids": [1, 4711]}, {"plain"}),
    "two": ({"kind": "a", "queue": "media"}, {"other queue and type"}),
    "all": ({"all": True}, {"plain", "other kind", "other error", "in a graph",
                            "other queue and type"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_selects_dead_letters(db: Connection, letters: dict[str, int], name: str) -> None:
    """All of its fields must match; the times are those of the death."""
    filters, expected = FILTERS[name]
    since = value(db, "select (died_at + interval '1 minute')::text from peers.dead"
                  " where task_id = %s", letters["plain"])  # fmt: skip
    graph = value(db, "select id from peers.graph")
    given = json.loads(json.dumps(filters).replace("SINCE", since).replace('"GRAPH"', str(graph)))
    found = act(db, "retry_dead", given, reason="deployed a fix")
    ids = sorted(letters[each] for each in expected)
    assert found == {"tasks": len(ids), "children": 0, "task_ids": ids}
    assert all(state(db, each) == "ready" for each in ids)
    assert value(db, "select count(*) from peers.dead") == len(letters) - len(ids)
    assert problems(db) == []


@pytest.mark.parametrize("verb", ["retry_dead", "discard_dead", "cancel_tasks"])
@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ("{}", "it would match every task"),
        ("null", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('{"kinds": "a"}', '"kinds" is no key of this filter; the keys are kind, queue'),
        ('{"kind": null}', "kind must not be null"),
        ('{"kind": 7}', "kind must be a string, not 7"),
        ('{"ids": 7}', "ids must be an array"),
        ('{"ids": ["x"]}', "bigint"),
        ('{"since": "yesterday-ish"}', "timestamp"),
        ('{"all": false}', "all must be true"),
    ],
)
def test_a_bad_filter_is_refused(db: Connection, verb: str, filters: str, words: str) -> None:
    """The sentence names the key; nothing is matched by accident."""
    sqlstate, said = refusal(db, f"select * from peers.{verb}(%s::jsonb)", filters)
    assert sqlstate == "PE009"
    assert words in said


def test_bounds_and_args_are_checked(db: Connection) -> None:
    """As those of a submission are."""
    call = "select * from peers.retry_dead('{\"all\": true}', "
    assert "max_tasks must be 1 or more" in refusal(db, call + "max_tasks => 0)")[1]
    assert "JSON object" in refusal(db, call + "args => '[]')")[1]
    wrong = 'select * from peers.cancel_tasks(\'{"state": "dead"}\')'
    assert "state must be blocked, scheduled, ready or running" in refusal(db, wrong)[1]


def test_a_retry_says_who_what_how_many_and_why(db: Connection, peer: Peer) -> None:
    """The action is written with the effect; what changes nothing is not written."""
    dead = died(peer)
    child = submit(db, depends_on=[dead])
    submit(db, depends_on=[child])
    run(db, "set application_name = 'on call'")
    filters = {"kind": "a"}
    with db.transaction(force_rollback=True):
        act(db, "retry_dead", filters)
    assert rows(db, "select from peers.action") == []
    found = act(db, "retry_dead", filters, reason="gateway is back", args='{"n": 2}')
    assert found == {"tasks": 1, "children": 2, "task_ids": [dead]}
    action = row(db, "select * from peers.action")
    assert {name: action[name] for name in ("verb", "target", "tasks", "children", "reason")} == {
        "verb": "retry_dead", "target": {"kind": "a", "new_args": True}, "tasks": 1,
        "children": 2, "reason": "gateway is back",
    }  # fmt: skip
    assert action["task_ids"] == [dead]
    assert (action["role"], action["client"]) == (value(db, "select session_user"), "on call")
    assert [claim.args for claim in peer.claim()] == [{"n": 2}]
    assert act(db, "retry_dead", filters)["tasks"] == 0
    assert value(db, "select count(*) from peers.action") == 1


@pytest.mark.parametrize("listed", [1, 10, 11, 5000])
def test_an_action_does_not_list_thousands_of_ids(db: Connection, peer: Peer, listed: int) -> None:
    """Its target has the first ten, and says how many more there were."""
    dead = died(peer)
    ids = list(range(dead, dead + listed))
    assert act(db, "retry_dead", {"ids": ids})["tasks"] == 1
    more = {"more_ids": listed - 10} if listed > 10 else {}
    assert value(db, "select target from peers.action") == {"ids": ids[:10], **more}


def test_a_discard_takes_what_waits_along(db: Connection, peer: Peer) -> None:
    """Descendants are cancelled and counted; failures stay."""
    dead = [died(peer), died(peer)]
    child = submit(db, depends_on=dead)
    grandchild = submit(db, depends_on=[child])
    found = act(db, "discard_dead", {"all": True}, max_tasks=1)
    assert found == {"tasks": 1, "children": 2, "task_ids": dead[:1]}
    assert states(db, *dead, child, grandchild) == ["cancelled", "dead", "cancelled", "cancelled"]
    assert act(db, "discard_dead", {"all": True})["children"] == 0
    assert value(db, "select count(*) from peers.failure") == 2
    assert problems(db) == []


def test_cancel_finds_every_unfinished_state(db: Connection, peer: Peer) -> None:
    """Running tasks are asked once; tasks of paused graphs are found, ended ones are not."""
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    running = submit(db)
    peer.claim()
    scheduled = value(db, "select peers.submit('a', scheduled_at => now() + interval '1 hour')")
    paused = submit(db, graph_id=graph)
    run(db, "select peers.pause_graph(%s)", graph)
    blocked = submit(db, depends_on=[running])
    dead_letter_free = [running, scheduled, paused, blocked]
    for name, expected in (
        ("running", [running]), ("scheduled", [scheduled]), ("ready", [paused]),
        ("blocked", [blocked]),
    ):  # fmt: skip
        assert act(db, "cancel_tasks", {"state": name}, dry_run=True)["task_ids"] == expected
    assert act(db, "cancel_tasks", {"kind": "a"})["task_ids"] == dead_letter_free
    assert states(db, *dead_letter_free) == ["running", *["cancelled"] * 3]
    assert act(db, "cancel_tasks", {"kind": "a"})["tasks"] == 0
    assert value(db, "select cancel_requested from peers.running") is True


def test_a_failed_attempt_can_be_what_is_cancelled(db: Connection, peer: Peer) -> None:
    """The tasks that wait to be retried after one error end before they run again."""
    for error in ("disk full", "timed out"):
        submit(db)
        peer.fail(*peer.claim(), retry_in=60, error_message=error)
    assert act(db, "cancel_tasks", {"error": "disk full"})["task_ids"] == [1]
    assert states(db, 1, 2) == ["cancelled", "scheduled"]


ONE_OF_EACH = {
    "pause": ("pause('default', 'r')", {"queue": "default"}),
    "resume": ("resume('default', 'r')", {"queue": "default"}),
    "pause_graph": ("pause_graph(1, 'r')", {"graph": 1}),
    "resume_graph": ("resume_graph(1, 'r')", {"graph": 1}),
    "retry_graph": ("retry_graph(1, reason => 'r')", {"graph": 1}),
    "cancel_graph": ("cancel_graph(1, reason => 'r')", {"graph": 1}),
    "set_limit": (
        """set_limit('l', '{"kind": "a", "max_running": 1}', 'r')""",
        {"limit": "l", "settings": {"kind": "a", "max_running": 1}},
    ),
    "shut_limit": ("shut_limit('l', 'infinity', 'r')", {"limit": "l", "until": "infinity"}),
    "open_limit": ("open_limit('l', 'r')", {"limit": "l"}),
    "remove_limit": ("remove_limit('l', 'r')", {"limit": "l"}),
    "end_cooldown": ("end_cooldown('mail', 'r')", {"cooldown": "mail"}),
    "pause_schedule": ("pause_schedule('s', 'r')", {"schedule": "s"}),
    "resume_schedule": ("resume_schedule('s', 'r')", {"schedule": "s"}),
    "run_schedule": ("run_schedule('s', 'r')", {"schedule": "s"}),
    "remove_schedule": ("remove_schedule('s', 'r')", {"schedule": "s"}),
}


def test_every_verb_of_an_operator_is_recorded(db: Connection, peer: Peer) -> None:
    """With its reason, and only when it has changed something."""
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    died(peer, graph_id=graph)
    run(db, "select peers.start_cooldown('mail', '1 hour')")
    run(db, 'select peers.add_schedule(\'{"name": "s", "kind": "a", "cron": "@daily"}\')')
    for verb, (call, target) in ONE_OF_EACH.items():
        count = value(db, "select count(*) from peers.action")
        run(db, f"select peers.{call}")
        if verb not in ("run_schedule", "shut_limit"):  # these change something each time
            try:
                run(db, f"select peers.{call}")
            except psycopg.DatabaseError as refused:
                assert refused.sqlstate in ("PE012", "PE015")  # noqa: PT017  # it is gone
        assert value(db, "select count(*) from peers.action") == count + 1, verb
        found = row(db, "select verb, target, reason from peers.action order by id desc limit 1")
        assert found == {"verb": verb, "target": target, "reason": "r"}
    run(db, 'select peers.add_schedule(\'{"name": "s", "kind": "a", "cron": "@daily"}\')')
    backfill = value(db, "select peers.backfill_schedule('s', '2026-01-01Z', '2026-01-02Z', 'r')")
    assert value(db, "select peers.cancel_backfill(%s, 'r')", backfill) is True
    assert value(db, "select peers.cancel_backfill(%s, 'r')", backfill) is False
    assert column(db, "select verb from peers.action order by id desc limit 2") == [
        "cancel_backfill", "backfill_schedule",
    ]  # fmt: skip


def test_graph_verbs_have_a_dry_run(db: Connection, peer: Peer) -> None:
    """It counts what they then do, and changes nothing."""
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    died(peer, graph_id=graph)
    running = submit(db, graph_id=graph)
    peer.claim()
    submit(db, graph_id=graph)
    assert value(db, "select peers.retry_graph(%s, dry_run => true)", graph) == 1
    assert value(db, "select peers.cancel_graph(%s, dry_run => true)", graph) == 3
    assert rows(db, "select from peers.action") == []
    assert value(db, "select peers.cancel_graph(%s)", graph) == 3
    assert value(db, "select peers.cancel_graph(%s, dry_run => true)", graph) == 0
    assert state(db, running) == "running"


@pytest.mark.parametrize("role", ["peers_operator", "peers_worker", "peers_submitter"])
def test_nobody_changes_what_was_recorded(db: Connection, role: str) -> None:
    """An operator reads it; no role writes it, not even the owner by hand."""
    run(db, "select peers.pause('q')")
    assert refusal(db, "update peers.action set reason = 'x'")[0] == "PE005"
    assert refusal(db, "truncate peers.action")[0] == "PE005"
    run(db, f"set role {role}")
    for statement in (
        "insert into peers.action (at, verb, target, role) values (now(), 'x', '{}', 'x')",
        "update peers.action set reason = 'x'", "delete from peers.action",
    ):  # fmt: skip
        assert refusal(db, statement)[0] == "42501"


def test_dead_letters_are_grouped_by_cause(db: Connection, letters: dict[str, int]) -> None:
    """By kind, error type and the innermost frame; a crash has none."""
    found = rows(db, "select kind, error_type, frame, tasks, example_id from peers.dead_cause")
    frame = "shop/tasks.py:42 in charge"
    assert sorted(tuple(each.values()) for each in found if each["frame"]) == [
        ("a", "Oops", frame, 3, letters["in a graph"]), ("b", "Oops", frame, 1, 2),
    ]  # fmt: skip
    [crash] = [each for each in found if each["frame"] is None]
    assert (crash["error_type"], crash["tasks"]) == ("crash", 1)
