"""`peers tasks` and `peers cancel` with filters, on a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Here, bury, join, state, submit

if TYPE_CHECKING:
    from tests.support.server import Connection


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands in this process."""
    return Here(database_url, monkeypatch, capsys)


def each_state(db: Connection) -> dict[str, int]:
    """Return a task in each state."""
    peer = join(db, "a", "b")
    tasks = {"dead": submit(db, "a")}
    bury(db, peer)
    for ended in ("completed", "running"):
        tasks[ended] = submit(db, "b")
        [claim] = db.execute("select * from peers.claim(%s, 'default', 1)", (peer,))
        if ended == "completed":
            db.execute(
                "select from peers.complete(%s, array[%s], %s, null)",
                (peer, claim["token"], claim["task_ids"]),
            )
    tasks["ready"] = submit(db, "a")
    tasks["blocked"] = submit(db, "b", after=(tasks["ready"],))
    tasks["cancelled"] = submit(db, "b")
    db.execute("select peers.cancel(%s)", (tasks["cancelled"],))
    [row] = db.execute("select peers.submit('a', scheduled_at => now() + interval '1 h') as id")
    tasks["scheduled"] = row["id"]
    return tasks


def listed(here: Here, *words: str) -> list[int]:
    """Return the ids that `peers tasks` shows."""
    found = here("tasks", *words, "--json")
    assert found.code == 0, found.err
    return [task["task_id"] for task in found.document["tasks"]]


def test_tasks_are_listed_newest_first(here: Here, db: Connection) -> None:
    """All of them, or those of a state, kind, queue and time."""
    assert here("tasks").err == "no tasks\n"
    tasks = each_state(db)
    everything = sorted(tasks.values(), reverse=True)
    assert listed(here) == everything
    for name, task in tasks.items():
        assert listed(here, "--state", name) == [task], name
    ready = [tasks["scheduled"], tasks["ready"], tasks["dead"]]
    assert listed(here, "--kind", "a") == ready
    assert listed(here, "--kind", "a", "--state", "ready") == [tasks["ready"]]
    assert listed(here, "--queue", "media") == []
    assert listed(here, "--since", "1h") == everything
    assert listed(here, "--until", "1h") == []
    assert listed(here, "--limit", "2") == everything[:2]
    shown = here("tasks", "--limit", "2")
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == list(
        map(str, everything[:2])
    )
    assert "… and more: --limit 20" in shown.err
    assert "Check the name." in here("tasks", "--kind", "nope").err


def test_tasks_of_a_graph_are_listed(here: Here, db: Connection) -> None:
    """And a graph that does not exist is an error."""
    submit(db, "a")
    graph = """[{"name": "x", "kind": "a"}, {"name": "y", "kind": "b", "after": ["x"]}]"""
    rows = db.execute("select * from peers.submit_graph(%s::jsonb, 'nightly')", (graph,)).fetchall()
    [of] = db.execute("select id from peers.graph")
    ids = sorted((row["task_id"] for row in rows), reverse=True)
    assert listed(here, "--graph", str(of["id"])) == ids
    assert listed(here, "--graph", str(of["id"]), "--state", "blocked") == ids[:1]
    assert here("tasks", "--graph", "99").code == 4


def test_rows_that_are_stale_are_not_shown(here: Here, db: Connection) -> None:
    """The narrow tables keep rows of tasks that were changed."""
    task = submit(db, "a")
    db.execute("select peers.change(%s, priority => 5)", (task,))
    assert listed(here, "--state", "ready") == [task]
    db.execute("select peers.cancel(%s)", (task,))
    assert listed(here, "--state", "ready") == []


def test_tasks_are_cancelled_by_a_filter(here: Here, db: Connection) -> None:
    """Dry runs change nothing; a running task is asked to stop; what ended stays."""
    tasks = each_state(db)
    dry = here("cancel", "--kind", "a", "--state", "ready", "--dry-run")
    assert dry.out == (
        f"would cancel 1 task ({tasks['ready']}); 1 task that waits for them also cancelled\n"
    )
    assert {name: state(db, task) for name, task in tasks.items()} == {n: n for n in tasks}
    found = here("cancel", "--kind", "a", "--reason", "sent twice")
    assert found.out == "cancelled 2 tasks; 1 task that waits for them also cancelled\n"
    assert {name for name, task in tasks.items() if state(db, task) != name} == {
        "ready", "scheduled", "blocked",
    }  # fmt: skip
    rest = here("cancel", "--queue", "default")
    assert rest.out == "cancelled 1 task\n"
    assert "running" in rest.err
    assert db.execute("select task_id from peers.cancel_request").fetchall() == [
        {"task_id": tasks["running"]}
    ]
    assert here("cancel", "--queue", "default").out == "cancelled 0 tasks\n"
    reasons = db.execute("select verb, reason from peers.action order by id").fetchall()
    assert [tuple(row.values()) for row in reasons] == [
        ("cancel_tasks", "sent twice"), ("cancel_tasks", None),
    ]  # fmt: skip


def test_cancel_needs_one_way_to_name_the_tasks(here: Here) -> None:
    """Ids or options: never all tasks by accident."""
    for words in (["cancel"], ["cancel", "1", "--kind", "a"]):
        with pytest.raises(SystemExit, match="2"):
            here(*words)
