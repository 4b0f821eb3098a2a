"""Operations on many tasks from Python: in their five forms."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import peers
from peers import AsyncClient, BadArgument, BulkResult, Client, TaskState
from tests.support.world import Peer, column, rows, run, state, submit, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    """Return a client of the test's database."""
    with Client(database_url) as made:
        yield made


def died(db: Connection, **options: Any) -> int:
    """Return a new dead letter."""
    peer = Peer.join(db)
    task_id = submit(db, **options)
    peer.fail(*peer.claim(), reject=True, error_message="timed out")
    return task_id


def test_dead_tasks_are_retried_by_a_filter(client: Client, db: Connection) -> None:
    """A dry run only counts them; the reason is recorded."""
    first, second = died(db), died(db)
    submit(db, depends_on=[first])
    expected = BulkResult(tasks=2, children=1, task_ids=[first, second])
    filters: dict[str, Any] = {
        "kind": "a", "queue": "default", "error_type": "Oops", "error": "TIMED",
        "since": datetime.now(UTC) - timedelta(hours=1),
        "until": datetime.now(UTC) + timedelta(hours=1), "ids": [first, second],
    }  # fmt: skip
    assert client.retry_dead(**filters, dry_run=True) == expected
    assert state(db, first) == "dead"
    assert client.retry_dead(**filters, args={"n": 1}, reason="it answers again") == expected
    assert column(db, "select args from peers.task where state = 'ready'") == [{"n": 1}] * 2
    assert column(db, "select reason from peers.action") == ["it answers again"]


def test_dead_tasks_are_discarded_in_batches(client: Client, db: Connection) -> None:
    """max_tasks bounds each call."""
    for _ in range(3):
        died(db)
    assert [client.discard_dead(all=True, max_tasks=2).tasks for _ in range(3)] == [2, 1, 0]


def test_unfinished_tasks_are_cancelled(client: Client, db: Connection) -> None:
    """By state, as its name or as a TaskState."""
    ready, later = submit(db), client.submit("a", delay=100)
    assert client.cancel_tasks(kind="a", state="scheduled").task_ids == [later]
    assert client.cancel_tasks(state=TaskState.READY, ids=[ready, later]).task_ids == [ready]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "it would match every task"),
    ({"kind": None}, "it would match every task"),
    ({"all": False}, "it would match every task"),
    ({"all": "yes"}, "all must be True or False"),
    ({"kinds": "a"}, "there is no filter kinds"),
    ({"ids": 7}, "ids must be a list"),
    ({"ids": ["x"]}, "ids must be the id of a task"),
    ({"graph": "nightly"}, "graph must be the id of a graph"),
    ({"since": "2h"}, "since must be a datetime with a time zone"),
    ({"until": datetime(2026, 1, 1)}, "has no time zone"),  # noqa: DTZ001
    ({"error": 7}, "error must be a string"),
    ({"all": True, "max_tasks": 0}, "max_tasks must be 1 or more"),
    ({"all": True, "dry_run": "no"}, "dry_run must be True or False"),
    ({"all": True, "reason": 7}, "reason must be a string"),
]


@pytest.mark.parametrize("verb", ["retry_dead", "discard_dead", "cancel_tasks"])
@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_a_wrong_filter_is_refused(
    client: Client, verb: str, arguments: dict[str, Any], words: str
) -> None:
    """By its name, before anything is sent."""
    with pytest.raises(BadArgument, match=words):
        getattr(client, verb)(**arguments)


def test_a_state_that_cannot_be_cancelled_is_refused(client: Client) -> None:
    """With the states that can be."""
    with pytest.raises(BadArgument, match="blocked, scheduled, ready, running"):
        client.cancel_tasks(state="dead")


def test_all_forms_work(configured: str, db: Connection) -> None:
    """The default client, async, an async client, and inside a transaction."""
    died(db)
    assert peers.retry_dead(all=True, dry_run=True).tasks == 1
    with psycopg.connect(configured) as connection:
        assert peers.discard_dead_in(connection, all=True).tasks == 1
        connection.rollback()

    async def run_async() -> int:
        assert (await peers.retry_dead_async(all=True)).tasks == 1
        async with AsyncClient(configured) as client:
            return (await client.cancel_tasks(kind="a", reason="not needed")).tasks

    assert asyncio.run(run_async()) == 1
    assert column(db, "select verb from peers.action order by id") == ["retry_dead", "cancel_tasks"]


def test_other_verbs_take_a_reason(client: Client, db: Connection) -> None:
    """It is recorded with what they did."""
    graph = value(db, "insert into peers.graph (name) values ('g') returning id")
    submit(db, graph_id=graph)
    client.pause("media", reason="r")
    client.resume("media", reason="r")
    client.pause_graph(graph, reason="r")
    client.resume_graph(graph, reason="r")
    assert client.cancel_graph(graph, dry_run=True) == 1
    assert client.cancel_graph(graph, reason="r") == 1
    assert client.retry_graph(graph, dry_run=True) == 0
    client.set_limit("l", kind="a", max_running=1, reason="r")
    client.shut_limit("l", reason="r")
    client.open_limit("l", reason="r")
    client.remove_limit("l", reason="r")
    client.add_schedule("s", "a", every="1h", anchor=datetime(2026, 1, 1, tzinfo=UTC))
    client.pause_schedule("s", reason="r")
    client.resume_schedule("s", reason="r")
    client.run_schedule("s", reason="r")
    backfill = client.backfill_schedule("s", datetime(2026, 1, 2, tzinfo=UTC), reason="r")
    client.cancel_backfill(backfill, reason="r")
    client.remove_schedule("s", reason="r")
    found = rows(db, "select count(*) as n, count(distinct verb) as verbs from peers.action"
                     " where reason = 'r'")  # fmt: skip
    assert found == [{"n": 15, "verbs": 15}]
    run(db, "select 1")
