"""Unique keys in every form of submit."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import Session

import peers
from peers import context
from tests.integration.test_client import Parent
from tests.support.cli import peers as command
from tests.support.current import inside_handler
from tests.support.world import Peer, task_row

if TYPE_CHECKING:
    from tests.support.server import Connection


@peers.task("unique.sync", queue="media")
def sync(account: int) -> None:
    """Do nothing."""


@pytest.mark.usefixtures("configured")
def test_an_id_says_whether_the_task_is_new(db: Connection) -> None:
    """In all respects but two it is an int."""
    first = peers.submit("x", unique_key="k")
    assert (first.is_new, first.replaced) == (True, False)
    again = peers.submit("x", unique_key="k")
    assert (again, again.is_new, again.replaced) == (first, False, False)
    third = peers.submit("x", {"n": 2}, unique_key="k", on_duplicate="replace")
    assert (third, third.is_new, third.replaced) == (first, False, True)
    assert task_row(db, third)["args"] == {"n": 2}
    for other in (copy.copy(third), copy.deepcopy(third), pickle.loads(pickle.dumps(third))):
        assert (other, other.is_new, other.replaced) == (third, False, True)
    assert (json.dumps({"id": third}), f"{third}") == (f'{{"id": {int(third)}}}', str(int(third)))
    assert peers.get(third).id == third
    child = peers.submit("y", {"parent": third}, depends_on=[third])
    assert task_row(db, child)["args"] == {"parent": int(third)}
    assert (child.is_new, child.replaced) == (True, False)


@pytest.mark.usefixtures("configured")
def test_an_idempotency_key_says_it_too() -> None:
    """The second call under the key returns the same id, and that it is not new."""
    first = peers.submit("x", idempotency_key="call")
    again = peers.submit("x", idempotency_key="call")
    assert (first.is_new, again.is_new, first == again) == (True, False, True)


def test_every_form_meets_the_same_key(configured: str, db: Connection) -> None:
    """Module, task, client, async, in transactions, and from a handler through its peer."""
    once = sync.options(unique_key="account 7", unique_while=peers.UniqueWhile.UNFINISHED)
    first = once.submit(account=7)
    assert first.is_new
    options: dict[str, Any] = {"unique_key": "account 7", "unique_while": "unfinished"}
    found = [once.submit(7), peers.submit("unique.sync", {"account": 7}, **options)]

    async def others() -> list[peers.TaskId]:
        async with (
            await psycopg.AsyncConnection.connect(configured) as connection,
            peers.AsyncClient(configured) as client,
        ):
            return [
                await once.submit_async(7),
                await client.submit(once, 7),
                await peers.submit_async("unique.sync", {"account": 7}, **options),
                await peers.submit_in(connection, "unique.sync", {"account": 7}, **options),
            ]

    found += asyncio.run(others())
    with peers.Client(configured) as client:
        found += [client.submit(once, 7), client.submit("unique.sync", {"account": 7}, **options)]
    query = {k: str(v) for k, v in psycopg.conninfo.conninfo_to_dict(configured).items()}
    engine = create_engine(URL.create("postgresql+psycopg", query=query))
    with Session(engine) as session, psycopg.connect(configured) as connection:
        found.append(once.submit_in(session, 7))
        found.append(once.submit_in(connection, 7))
        session.commit()
    engine.dispose()
    parent = Parent(configured)
    handler = context.CurrentTask(
        id=1, kind="k", attempt=1, token="t", deadline=None, execution_id=5, _scheduler=parent
    )
    with inside_handler(handler):
        found.append(once.submit(7))
    assert parent.verbs == ["submit_unique"]
    assert [(each, each.is_new) for each in found] == [(first, False)] * len(found)
    assert len(db.execute("select from peers.task").fetchall()) == 1
    assert task_row(db, first)["queue"] == "media"


@pytest.mark.usefixtures("configured")
def test_a_debounced_task(db: Connection) -> None:
    """It starts `wait` after the last submission; options may be set one by one."""
    debounced = sync.options(on_duplicate="debounce", wait=60).options(max_wait=timedelta(hours=1))
    debounced.options(unique_key="k").submit(1)
    last = debounced.options(unique_key="k").submit(2)
    row = task_row(db, last)
    assert (last.replaced, row["state"], row["args"]) == (True, "scheduled", {"account": 2})
    left = row["scheduled_at"] - datetime.now(UTC)
    assert timedelta(seconds=30) < left <= timedelta(seconds=60)


@pytest.mark.usefixtures("configured")
def test_many_tasks_with_keys(db: Connection) -> None:
    """Duplicates within the batch and None are fine; each id says what became of it."""
    keys = iter(["a", "b", "a", None])
    ids = peers.submit_many("x", ({"n": n} for n in range(4)), unique_keys=keys)
    assert [each.is_new for each in ids] == [True, True, False, True]
    assert ids[0] == ids[2]
    again = peers.submit_many(
        "x", [{"n": 9}], unique_keys=["b"], on_duplicate=peers.OnDuplicate.REPLACE
    )
    assert (again, again[0].replaced) == ([ids[1]], True)
    assert task_row(db, ids[1])["args"] == {"n": 9}
    assert peers.submit_many("x", [], unique_keys=[]) == []
    assert all(each.is_new for each in peers.submit_many("x", [{}, {}]))


@pytest.mark.usefixtures("configured")
def test_many_tasks_with_parents_stand_for_tasks_that_have_started(db: Connection) -> None:
    """These get no parents; the new ones of the batch do."""
    options: dict[str, Any] = {"unique_while": "unfinished"}
    [known] = peers.submit_many("x", [{}], unique_keys=["k"], **options)
    Peer.join(db, "x").claim()
    parent = peers.submit("y")
    ids = peers.submit_many("x", [{}, {}], unique_keys=["k", "new"], depends_on=[parent], **options)
    assert [(each == known, each.is_new) for each in ids] == [(True, False), (False, True)]
    edges = db.execute("select parent_id, child_id from peers.dependency").fetchall()
    assert [tuple(edge.values()) for edge in edges] == [(parent, ids[1])]


@pytest.mark.usefixtures("configured")
def test_a_graph_with_keys(db: Connection) -> None:
    """A node that stands for an older task says so, and its children wait for both."""
    older = sync.options(unique_key="k").submit(1)
    with peers.graph() as graph:
        first = graph.add("x")
        node = graph.add(sync.options(unique_key="k").after(first), account=2)
        last = graph.add("y", depends_on=[node])
    assert (first.id.is_new, node.id.is_new, last.id.is_new) == (True, False, True)
    assert node.id == older
    edges = db.execute("select parent_id from peers.dependency where child_id = %s", (last.id,))
    assert {row["parent_id"] for row in edges.fetchall()} == {first.id, older}


BAD: dict[str, dict[str, Any]] = {
    "unique_key must be 1 to 400 characters, not 401": {"unique_key": "x" * 401},
    "unique_key must be a string, not 3": {"unique_key": 3},
    'unique_while must be "waiting", "unfinished" or a duration such as': {
        "unique_key": "k", "unique_while": "ready",
    },
    "unique_while must be 1ms to 365d, not 0s": {"unique_key": "k", "unique_while": 0},
    'on_duplicate must be "keep", "replace" or "debounce", not "merge"': {
        "unique_key": "k", "on_duplicate": "merge",
    },
    'on_duplicate="debounce" needs a wait': {"unique_key": "k", "on_duplicate": "debounce"},
    'wait and max_wait need on_duplicate="debounce"': {"unique_key": "k", "wait": 5},
    r"max_wait must be at least wait \(5s\), not 4s": {
        "unique_key": "k", "on_duplicate": "debounce", "wait": 5, "max_wait": 4,
    },
    'on_duplicate="debounce" needs unique_while="waiting"': {
        "unique_key": "k", "on_duplicate": "debounce", "wait": 5, "unique_while": "unfinished",
    },
    'on_duplicate="debounce" sets the time of the start itself': {
        "unique_key": "k", "on_duplicate": "debounce", "wait": 5, "delay": 1,
    },
    "unique_while needs a unique_key": {"unique_while": "waiting"},
    'on_duplicate must be "keep" for a task with parents': {
        "unique_key": "k", "on_duplicate": "replace", "depends_on": [1],
    },
}  # fmt: skip


@pytest.mark.parametrize("words", BAD)
def test_bad_options_are_refused_before_anything_is_sent(words: str) -> None:
    """With the name, the bound and the remedy."""
    with pytest.raises(peers.BadTask, match=words):
        peers.submit("x", **BAD[words])


def test_bad_keys_of_a_batch_are_refused() -> None:
    """One for each task, and each within its bound."""
    with pytest.raises(peers.BadTask, match="one element for each of the 2 args, not 1"):
        peers.submit_many("x", [{}, {}], unique_keys=["a"])
    with pytest.raises(peers.BadTask, match="must have 1 to 400 characters, not 0"):
        peers.submit_many("x", [{}], unique_keys=[""])
    with pytest.raises(peers.BadTask, match="must be strings or None, not 3"):
        peers.submit_many("x", [{}], unique_keys=[3])  # type: ignore[list-item]
    with pytest.raises(peers.BadTask, match="cannot share a unique_key"):
        peers.submit_many("x", [{}], unique_key="a")


def test_from_a_shell(database_url: str, db: Connection) -> None:
    """The id goes to stdout; that the task is not new goes to stderr."""
    call = ["submit", "x", "n=1", "--unique-key", "k"]
    first = command(*call, url=database_url)
    kept = command(*call, "--unique-while", "1h", url=database_url)
    assert (kept.out, "has the key" in kept.err) == (first.out, True)
    debounce = ["--on-duplicate", "debounce", "--wait", "1m", "--max-wait", "1h"]
    replaced = command(*call, *debounce, url=database_url)
    assert (replaced.out, "was replaced" in replaced.err) == (first.out, True)
    assert task_row(db, int(first.out))["state"] == "scheduled"
    wrong = command(*call, "--unique-while", "never", url=database_url)
    assert (wrong.code, "unfinished" in wrong.err) == (2, True)
