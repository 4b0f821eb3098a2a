"""After submit: reading, finding and changing tasks, and waiting for their results."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import peers
from peers import context
from peers.client import result_thread
from peers.client.client import Client
from peers.errors import NotPermitted
from tests.integration.test_client import Parent
from tests.support.current import inside_handler
from tests.support.world import Peer, states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.server import Connection


@peers.task("test.double")
def double(n: int) -> int:
    """Return a number."""
    return 2 * n


@peers.task("test.double.async")
async def double_async(n: int) -> int:
    """Return a number."""
    return 2 * n


@peers.task("test.due")
def due(days: int) -> datetime:
    """Return a time, for which JSON has no type."""
    return datetime(2026, 11, 26, tzinfo=UTC) + timedelta(days=days)


@pytest.fixture(autouse=True)
def _configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)


@pytest.fixture
def peer(db: Connection) -> Peer:
    """A peer that runs the kinds of this file."""
    return Peer.join(db, double.kind, double_async.kind, due.kind, "a", "b")


def complete(peer: Peer, result: object = None) -> None:
    """Complete the next task."""
    [claim] = peer.claim(1)
    assert peer.complete(claim, result=result) == {}


def bury(peer: Peer) -> None:
    """Fail the next task for good."""
    [claim] = peer.claim(1)
    failed = peer.fail(claim, error_type="OSError", error_message="disk full", reject=True)
    assert failed == {}


def later(action: Callable[[], None], delay: float = 0.3) -> threading.Timer:
    """Do something while the test waits."""
    timer = threading.Timer(delay, action)
    timer.start()
    return timer


# ----------------------------------------------------------------------------------------- reading


def test_get_returns_the_whole_task() -> None:
    """Every value comes back in the type in which it was submitted; times are in UTC."""
    at = datetime(2036, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    submitted = double.options(
        priority=3, scheduled_at=at, timeout=2.5, metadata={"order": 7}, idempotency_key="k"
    ).submit(n=4)
    found = peers.get(submitted)
    assert (found.id, found.kind, found.state) == (submitted, double.kind, "scheduled")
    assert found.state is peers.TaskState.SCHEDULED
    assert (found.args, found.metadata, found.idempotency_key) == ({"n": 4}, {"order": 7}, "k")
    assert (found.scheduled_at, found.timeout) == (at, timedelta(seconds=2.5))
    assert found.created_at.tzinfo is UTC
    assert (found.result, found.failure, found.finished_at) == (None, None, None)


def test_get_of_no_task() -> None:
    """The error says what may have happened to it."""
    with pytest.raises(peers.TaskNotFound, match=r"no task 999\. It never existed"):
        peers.get(999)


def test_a_session_s_own_styles_change_nothing(database_url: str) -> None:
    """Times are read the same whatever the role's DateStyle, IntervalStyle and time zone are."""
    task_id = double.options(timeout=90).submit(n=1)
    with psycopg.connect(database_url) as own:
        own.execute("set datestyle to 'SQL, DMY'; set intervalstyle to 'sql_standard'")
        own.execute("set timezone to 'Asia/Kathmandu'")
        assert peers.get_in(own, task_id) == peers.get(task_id)


def test_find_by_each_filter(peer: Peer) -> None:
    """The newest first; each state is found, whichever table finds it."""
    done = peers.submit("a")
    complete(peer)
    dead = peers.submit("a", metadata={"order": 7, "shop": "x"})
    bury(peer)
    running = peers.submit("b")
    peer.claim()
    ready = peers.submit("a", queue="other")
    scheduled = peers.submit("b", delay=60)
    blocked = peers.submit("a", depends_on=[scheduled])
    cancelled = peers.submit("b", delay=60)
    peers.cancel(cancelled)

    def ids(**filters: Any) -> list[int]:
        return [task.id for task in peers.find(**filters)]

    everything = [cancelled, blocked, scheduled, ready, running, dead, done]
    assert ids() == everything
    by_state = [cancelled, blocked, scheduled, ready, running, dead, done]
    states = ["cancelled", "blocked", "scheduled", "ready", "running", "dead", "completed"]
    for state, task_id in zip(states, by_state, strict=True):
        assert ids(state=state) == [task_id], state
    assert ids(kind="b") == [cancelled, scheduled, running]
    assert ids(kind="b", state=peers.TaskState.RUNNING) == [running]
    assert ids(queue="other") == [ready]
    assert ids(metadata={"order": 7}) == [dead]
    assert ids(metadata={"order": 8}) == []
    assert ids(limit=2) + ids(limit=9, before=blocked) == everything
    [letter] = peers.find(state="dead")
    assert letter.failure is not None
    assert str(letter.failure) == "OSError: disk full"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: peers.find(limit=0), "limit must be 1 to 1000"),
        (lambda: peers.find(state="done"), "state must be one of blocked, .*'done'"),
        (lambda: peers.retry(["1"]), "must be the id of a task, .*'1'"),  # type: ignore[list-item]
        (lambda: peers.change(1, priority=10**6), "priority must be -32768"),
        (lambda: peers.find(limit="9"), "limit must be 1 to 1000"),  # type: ignore[arg-type]
        (lambda: peers.find(graph="x"), "the id of a graph"),  # type: ignore[arg-type]
        (lambda: peers.find(before="x"), "the id of a task"),  # type: ignore[arg-type]
        (lambda: peers.get("1"), "id must be the id of a task, .*'1'"),  # type: ignore[arg-type]
        (lambda: peers.explain(1.5), "the id of a task"),  # type: ignore[arg-type]
        (lambda: peers.cancel(True), "the id of a task, .*True"),
        (lambda: peers.change(None), "the id of a task, .*None"),  # type: ignore[arg-type]
        (lambda: peers.discard(None), "the id of a task, .*None"),  # type: ignore[arg-type]
        (lambda: peers.graph_status("1"), "the id of a graph"),  # type: ignore[arg-type]
        (lambda: peers.find(kind=5), "kind must be a string or a task"),  # type: ignore[arg-type]
        (lambda: peers.find(queue=5), "queue must be a string, not 5"),  # type: ignore[arg-type]
        (lambda: peers.find(metadata=[]), "metadata must be a JSON object"),  # type: ignore[arg-type]
        (lambda: peers.find_graphs(limit=0), "limit must be 1 to 1000, not 0.*before="),
        (lambda: peers.find_graphs(name=5), "name must be a string"),  # type: ignore[arg-type]
        (lambda: peers.find_graphs(paused="1"), "paused must be True or"),  # type: ignore[arg-type]
        (lambda: peers.find_graphs(before="x"), "the id of a graph"),  # type: ignore[arg-type]
        (lambda: peers.find_schedules(limit=0), "limit must be 1 to 1000, not 0.*after="),
        (lambda: peers.find_schedules(limit=2000), "limit must be 1 to 1000"),
        (lambda: peers.find_schedules(kind=5), "kind must be a string or"),  # type: ignore[arg-type]
        (lambda: peers.find_schedules(after=5), "after must be a string"),  # type: ignore[arg-type]
        (lambda: peers.find_schedules(paused="no"), "paused must be True or"),  # type: ignore[arg-type]
        (lambda: peers.cancel_backfill("1"), "the id of a backfill"),  # type: ignore[arg-type]
        (lambda: peers.submit_many(None, []), "kind must be a string"),  # type: ignore[arg-type]
        (lambda: peers.submit(None), "kind must be a string"),  # type: ignore[call-overload]
        (lambda: peers.result("1"), "id must be the id of a task"),  # type: ignore[arg-type]
        (lambda: peers.result("1", timeout=0), "the id of a task"),  # type: ignore[arg-type]
        (lambda: peers.submit("a", graph="x"), "graph must be the id of a graph"),  # type: ignore[call-overload]
    ],
)
def test_bad_arguments_are_named(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], message: str
) -> None:
    """Before anything is sent."""
    monkeypatch.setenv("PEERS_DATABASE_URL", "host=/nowhere")
    with pytest.raises(peers.BadArgument, match=message) as caught:
        call()
    is_of_task = "priority" in message or "graph must be" in message
    assert type(caught.value) is (peers.BadTask if is_of_task else peers.BadArgument)


@pytest.mark.parametrize("bad", [[1], 5, "x", [], ""])
def test_what_is_no_object_is_refused(monkeypatch: pytest.MonkeyPatch, bad: Any) -> None:
    """Args and metadata are JSON objects; the error says which of them is none, and what it is."""
    monkeypatch.setenv("PEERS_DATABASE_URL", "host=/nowhere")
    is_none = f"must be a JSON object, such as a dict, not {type(bad).__name__}"
    in_args: list[Callable[[], object]] = [
        lambda: peers.submit("a", bad),
        lambda: peers.submit(double.kind, bad),
        lambda: peers.change(1, args=bad),
        lambda: peers.retry(1, args=bad),
        lambda: peers.graph().add("a", bad),
    ]
    for call in in_args:
        with pytest.raises(peers.ArgsInvalid, match=f"args {is_none}"):
            call()
    with pytest.raises(peers.ArgsInvalid, match=f"metadata {is_none}"):
        peers.graph(metadata=bad)
    with pytest.raises(peers.BadArgument, match=f"metadata {is_none}"):
        peers.find(metadata=bad)


def test_a_node_may_have_no_args(db: Connection) -> None:
    """None is the default, as in `submit`."""
    with peers.graph() as graph:
        graph.add("a", None)
    assert peers.get(graph.ids["1"]).args == {}
    assert states(db, graph.ids["1"]) == ["ready"]


def test_find_the_ready_tasks_of_a_paused_graph() -> None:
    """They are ready, though no table of ready tasks has them until the graph is resumed."""
    with peers.graph() as graph:
        first = graph.add("a")
        graph.add("a", depends_on=[first])
    other = peers.submit("a")
    for pause_or_resume in (peers.pause_graph, peers.resume_graph):
        pause_or_resume(graph.id)
        assert [task.id for task in peers.find(state="ready")] == [other, first.id]
        assert [task.id for task in peers.find(state="ready", graph=graph.id)] == [first.id]
        assert peers.graph_status(graph.id).ready == 1


# ---------------------------------------------------------------------------------------- changing


def test_cancel_and_change_what_waits() -> None:
    """Cancel returns the new state, change leaves what it is not given."""
    task_id = double.options(priority=5).submit(n=1)
    peers.change(task_id, args={"n": 2}, max_attempts=7, timeout=1.5)
    found = peers.get(task_id)
    assert (found.args, found.priority, found.max_attempts) == ({"n": 2}, 5, 7)
    assert found.timeout == timedelta(seconds=1.5)
    assert peers.cancel(task_id) is peers.TaskState.CANCELLED
    with pytest.raises(peers.ChildStarted):
        peers.change(task_id, priority=1)


def test_retry_and_discard_take_one_or_several(db: Connection, peer: Peer) -> None:
    """All of them or none: one that is not dead leaves the others dead."""
    ids = [peers.submit("a") for _ in range(4)]
    for _ in ids:
        bury(peer)
    alive = peers.submit("b", delay=60)
    with pytest.raises(peers.NotDead, match=f"task {alive} is scheduled"):
        peers.retry([*ids, alive])
    assert states(db, *ids) == ["dead"] * 4
    assert peers.retry(ids[0], {"n": 1}) == 1
    assert peers.get(ids[0]).args == {"n": 1}
    assert peers.retry([ids[2], ids[1], ids[2]]) == 2
    assert peers.discard(ids[3]) == 1
    assert states(db, *ids) == ["ready", "ready", "ready", "cancelled"]
    assert peers.retry([]) == 0


def test_pause_and_resume(peer: Peer) -> None:
    """A paused queue gives nothing to claim, and explain says so."""
    task_id = peers.submit("a")
    peers.pause("default")
    assert peer.claim() == []
    assert "paused" in peers.explain(task_id)
    peers.resume("default")
    assert len(peer.claim()) == 1


# ----------------------------------------------------------------------------------------- results


def test_result_of_each_end(peer: Peer) -> None:
    """The value of a completed task; an exception for what failed or was cancelled."""
    task_id = double.submit(n=4)
    complete(peer, 8)
    assert double.result(task_id) == 8
    assert peers.result(task_id) == 8
    dead = double.submit(n=4)
    bury(peer)
    with pytest.raises(peers.TaskFailed, match=rf"task {dead} .* OSError: disk full") as raised:
        double.result(dead)
    assert raised.value.failure is not None
    assert raised.value.failure.error_type == "OSError"
    cancelled = double.submit(n=4)
    peers.cancel(cancelled)
    with pytest.raises(peers.TaskCancelled, match=f"task {cancelled}"):
        double.result(cancelled)
    for no_id in (10**9, 10**30, -1):
        with pytest.raises(peers.TaskNotFound, match=f"no task {no_id}"):
            double.result(no_id)


def test_a_result_has_the_handler_s_type(peer: Peer, database_url: str) -> None:
    """By every way; without the handler it is JSON."""
    task_id = due.submit(days=1)
    complete(peer, "2026-11-27T00:00:00Z")
    expected = datetime(2026, 11, 27, tzinfo=UTC)
    assert due.result(task_id) == expected
    assert asyncio.run(due.result_async(task_id)) == expected
    with Client(database_url) as client:
        assert client.result(task_id, task=due) == expected
        assert client.result(task_id) == "2026-11-27T00:00:00Z"


def test_a_result_of_another_kind_is_refused(peer: Peer) -> None:
    """Its type would be a lie."""
    task_id = peers.submit("a")
    complete(peer)
    with pytest.raises(peers.BadTask, match=f"task {task_id} is of kind a, not test.double"):
        double.result(task_id)


def test_a_timeout_ends_the_wait_only(db: Connection) -> None:
    """The task goes on."""
    task_id = double.submit(n=4)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"task {task_id} has not ended within 0.2 s"):
        double.result(task_id, timeout=0.2)
    assert time.monotonic() - began >= 0.2
    assert states(db, task_id) == ["ready"]


def test_a_timeout_of_zero_looks_once(peer: Peer, database_url: str) -> None:
    """Who polls gets the result of a task that has ended, and a TimeoutError before."""
    task_id = double.submit(n=4)
    with pytest.raises(TimeoutError, match=f"task {task_id} has not ended within 0 s"):
        peers.result(task_id, timeout=0)
    with pytest.raises(TimeoutError, match="within 0 s"):
        peers.result(task_id, timeout=-0.5)  # what is left until a deadline
    for wrong in (True, "soon", float("nan")):
        with pytest.raises(peers.BadArgument, match="timeout must be"):
            peers.result(task_id, timeout=wrong)
    with pytest.raises(peers.TaskNotFound, match="there is no task 999"):
        peers.result(999, timeout=0)
    complete(peer, 8)
    assert peers.result(task_id, timeout=0) == double.result(task_id, timeout=0) == 8
    for timeout in ("1m", timedelta(minutes=1), 60.0):
        assert peers.result(task_id, timeout=timeout) == 8

    async def main() -> None:
        async with peers.AsyncClient(database_url) as client:
            assert await client.result(task_id, timeout=0) == 8
        assert await double.result_async(task_id, timeout=0) == 8

    asyncio.run(main())


@pytest.fixture
def _slow_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = result_thread._Pauses(first=30.0, longest=30.0, growth=1.0)
    monkeypatch.setattr(result_thread, "_LISTENING", slow)


@pytest.mark.usefixtures("_slow_polls")
def test_the_end_of_an_awaited_task_wakes_its_waiter(peer: Peer) -> None:
    """Complete, death and cancellation notify; without that each would take 30 s here."""
    double.submit(n=1)
    ends: list[Callable[[], object]] = [
        lambda: complete(peer, 2), lambda: bury(peer), lambda: peers.cancel(task_id)
    ]  # fmt: skip
    for end in ends:
        task_id = peers.find(limit=1)[0].id
        timer = later(lambda end=end: end())  # type: ignore[misc]
        began = time.monotonic()
        with contextlib.suppress(peers.TaskFailed, peers.TaskCancelled):
            peers.result(task_id, timeout=60)
        assert time.monotonic() - began < 25
        timer.join()
        double.submit(n=1)


@pytest.mark.usefixtures("_slow_polls")
def test_without_the_trigger_the_waiter_is_seen_to_sleep(db: Connection, peer: Peer) -> None:
    """The test above would notice a lost notification."""
    db.execute("drop trigger tasks_ended on peers.task")
    task_id = double.submit(n=1)
    timer = later(lambda: complete(peer, 2), delay=2.0)  # after the waiter's first looks
    with pytest.raises(TimeoutError):
        peers.result(task_id, timeout=4)
    timer.join()


def test_only_awaited_tasks_notify(db: Connection, peer: Peer) -> None:
    """A notification takes a lock of the whole cluster at commit."""
    db.execute("listen peers_results")
    double.submit(n=1)
    complete(peer)
    task_id = double.submit(n=1)
    db.execute("select peers.await_results(%s)", ([task_id],))
    complete(peer)
    [first] = db.notifies(timeout=60, stop_after=1)
    assert first.payload == str(task_id)
    db.execute("select 1")
    assert list(db.notifies(timeout=0)) == []


def test_many_wait_on_one_connection(db: Connection, peer: Peer, database_url: str) -> None:
    """A hundred threads' and coroutines' waits share one thread and one connection."""
    with Client(database_url, application_name="many") as client:
        ids = [client.submit(double, n=n) for n in range(100)]
        results: list[int] = []
        threads = [
            threading.Thread(
                target=lambda task_id=task_id: results.append(client.result(task_id, 60))
            )
            for task_id in ids
        ]
        for thread in threads:
            thread.start()
        count = (
            "select count(*) as n from pg_stat_activity"
            " where application_name = 'many' and datname = current_database()"
        )
        for claim in peer.claim(100):
            assert peer.complete(claim, result=claim.task_id) == {}
        [row] = db.execute(count).fetchall()
        for thread in threads:
            thread.join(60)
        assert sorted(results) == ids
        assert row["n"] <= 2


def test_large_results_of_many_tasks_come_all(db: Connection, database_url: str) -> None:
    """Together they are larger than an array in jsonb may be, which has at most 256 MiB."""
    insert = "insert into peers.task (kind) select 'a' from generate_series(1, 270) returning id"
    ids = [row["id"] for row in db.execute(insert)]
    with db.transaction():
        db.execute("set local session_replication_role to replica")
        db.execute(
            "update peers.task set state = 'completed', finished_at = now(), started_at = now(),"
            " attempt = 1, result = to_jsonb(repeat('x', 1000000))"
        )

    async def main() -> set[int]:
        async with peers.AsyncClient(database_url) as client:
            found = await asyncio.gather(*(client.result(task_id, timeout=60) for task_id in ids))
        return {len(each) for each in found}

    assert asyncio.run(main()) == {1_000_000}
    assert len(peers.find(limit=1000)) == 270


def test_results_survive_a_lost_connection(db: Connection, peer: Peer) -> None:
    """Who waits does not notice that the database has closed the connection."""
    task_id = double.submit(n=1)

    def interrupt() -> None:
        db.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and backend_type = 'client backend'"
        )
        complete(peer, 2)

    timer = later(interrupt, 0.5)
    assert double.result(task_id, timeout=60) == 2
    timer.join()


# ------------------------------------------------------------------------------------------- async


def test_the_async_forms(peer: Peer) -> None:
    """Each has its twin; results of async handlers are values, not coroutines."""

    async def main() -> None:
        task_id = await double_async.submit_async(n=4)
        waiting = asyncio.create_task(double_async.result_async(task_id, 20))
        await asyncio.sleep(0)
        assert (await peers.get_async(task_id)).args == {"n": 4}
        await asyncio.to_thread(complete, peer, 8)
        assert await waiting == 8
        other = await peers.submit_async("a", {"n": 1})
        assert [task.id for task in await peers.find_async(limit=1)] == [other]
        with pytest.raises(TimeoutError, match=f"task {other}"):
            await peers.result_async(other, 0.1)
        assert await peers.cancel_async(other) == "cancelled"
        async with peers.graph_async() as graph:
            first = graph.add(double, 1)
            second = graph.add(double.after(first), 2)
        assert second.id > first.id

    asyncio.run(main())


def test_async_client(peer: Peer, database_url: str) -> None:
    """The same on an object of its own, from one event loop after the other."""

    async def main() -> int:
        async with peers.AsyncClient(database_url) as client:
            task_id = await client.submit(double, n=4)
            await asyncio.to_thread(complete, peer, 8)
            assert await client.result(task_id, 20, task=double) == 8
            async with client.graph() as graph:
                graph.add(double.options(queue="other"), 1)
            assert (await client.get(task_id)).state == "completed"
            waits = [asyncio.create_task(client.result(task_id, 60)) for _ in range(200)]
            assert await asyncio.gather(*waits) == [8] * 200
            return task_id

    assert asyncio.run(main()) != asyncio.run(main())


def test_a_cancelled_wait_is_forgotten(database_url: str) -> None:
    """A request that a web server drops leaves nothing behind."""

    async def main() -> None:
        async with peers.AsyncClient(database_url) as client:
            task_id = await client.submit(double, n=1)
            wait = asyncio.create_task(client.result(task_id))
            # another thread waits
            while (waiter := client._client._waiter) is None or not waiter._awaited:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            await asyncio.to_thread(waiter.wait_for(10**9).exception, 20)
            assert waiter._awaited == {}

    asyncio.run(main())


def test_inside_transactions(database_url: str) -> None:
    """What is not committed yet is found in its own transaction, and nowhere else."""
    with psycopg.connect(database_url) as own:
        task_id = double.submit_in(own, 4)
        assert peers.get_in(own, task_id).args == {"n": 4}
        assert peers.find() == []
        assert peers.cancel_in(own, task_id) == "cancelled"

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as own:
            other = await peers.submit_in(own, "a", {"n": 1})
            assert [task.id for task in await peers.find_in(own, kind="a")] == [other]

    asyncio.run(main())


# ------------------------------------------------------------------------------------------ graphs


def test_a_graph_has_an_identity(peer: Peer) -> None:
    """Its id is known after the block, and each operation on graphs takes it."""
    with peers.graph(name="nightly", metadata={"day": 1}) as graph:
        with pytest.raises(peers.BadGraph, match="has not been submitted"):
            _ = graph.id
        first = graph.add("a")
        second = graph.add("b", depends_on=[first])
    status = peers.graph_status(graph.id)
    assert (status.id, status.name, status.metadata) == (graph.id, "nightly", {"day": 1})
    assert (status.tasks, status.ready, status.blocked, status.done_share) == (2, 1, 1, 0)
    assert status.created_at.tzinfo is UTC
    alone = peers.submit("a")
    assert peers.get(first.id).graph_id == graph.id
    assert peers.get(alone).graph_id is None
    assert [task.id for task in peers.find(graph=graph.id)] == [second.id, first.id]
    assert [task.id for task in peers.find(graph=graph.id, state="blocked")] == [second.id]
    assert peers.pause_graph(graph.id) == 1
    assert [claim.task_id for claim in peer.claim()] == [alone]
    assert peers.resume_graph(graph.id) == 1
    bury(peer)
    assert peers.retry_graph(graph.id) == 1
    third = peers.submit("a", graph=graph.id)
    assert peers.cancel_graph(graph.id) == 3
    assert peers.get(third).state == "cancelled"
    status = peers.graph_status(graph.id)
    assert (status.cancelled, status.done_share) == (3, 1)
    assert status.finished_at is not None


def test_graphs_are_found_by_name_and_page_by_page() -> None:
    """The newest comes first; filters are combined."""
    ids = []
    for name in ("nightly", "hourly", "nightly"):
        with peers.graph(name=name) as graph:
            graph.add("a")
        ids.append(graph.id)
    assert [graph.id for graph in peers.find_graphs()] == ids[::-1]
    assert [graph.id for graph in peers.find_graphs(name="nightly")] == [ids[2], ids[0]]
    assert [graph.id for graph in peers.find_graphs(limit=1, before=ids[2])] == [ids[1]]
    peers.pause_graph(ids[0])
    assert [graph.id for graph in peers.find_graphs(paused=True)] == [ids[0]]
    assert [graph.id for graph in peers.find_graphs(name="nightly", paused=False)] == [ids[2]]


def test_a_change_by_a_delay_counts_from_the_database_s_clock() -> None:
    """It excludes a time, as at the submission."""
    task = peers.submit("a")
    peers.change(task, delay=3600)
    found = peers.get(task)
    assert found.state == "scheduled"
    assert 3590 < (found.scheduled_at - found.created_at).total_seconds() < 3700
    with pytest.raises(peers.BadTask, match="exclude each other"):
        peers.change(task, delay=1, scheduled_at=found.scheduled_at)


@pytest.mark.parametrize("verb", ["graph_status", "cancel_graph", "pause_graph", "retry_graph"])
def test_a_graph_that_is_not_there(verb: str) -> None:
    """Every operation says so."""
    with pytest.raises(peers.GraphNotFound, match="no graph 999"):
        getattr(peers, verb)(999)


def test_a_key_makes_one_graph(db: Connection) -> None:
    """The same block run again has the same ids; its tasks have no keys of their own."""

    def submit() -> tuple[int, list[int]]:
        with peers.graph(name="nightly", idempotency_key="2026-11-26") as graph:
            first = graph.add("a")
            nodes = [first, graph.add(double.after(first), 1)]
        return graph.id, [node.id for node in nodes]

    assert submit() == submit()
    assert peers.graph_status(submit()[0]).idempotency_key == "2026-11-26"
    assert (
        db.execute("select idempotency_key from peers.task").fetchall()
        == [{"idempotency_key": None}] * 2
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 5}, "name of a graph must be a string, not 5"),
        ({"idempotency_key": 5}, "idempotency_key of a graph must be a string, not 5"),
        ({"name": ""}, "name of a graph must have 1 to 200 characters"),
        ({"idempotency_key": "x" * 501}, "must have 1 to 500 characters, not 501"),
    ],
)
def test_bad_options_of_a_graph(options: dict[str, Any], message: str) -> None:
    """Before the block."""
    with pytest.raises(peers.BadTask, match=message):
        peers.graph(**options)


def test_nodes_join_a_graph_that_exists(db: Connection) -> None:
    """graph=… adds a node to that graph; no other graph is made if all nodes have one."""
    with peers.graph(name="first") as first:
        first.add("a")
    with peers.graph() as later:
        node = later.add("b", graph=first.id)
        later.add("c", graph=first.id, depends_on=[node])
    assert later.id == first.id
    assert db.execute("select name from peers.graph").fetchall() == [{"name": "first"}]
    with peers.graph() as mixed:
        joined = mixed.add("d", graph=first.id)
        own = mixed.add("e")
    of = "select id, graph_id from peers.task where id = any (%s) order by id"
    graphs = {row["id"]: row["graph_id"] for row in db.execute(of, [[joined.id, own.id]])}
    assert graphs[joined.id] == first.id != graphs[own.id]


def test_a_node_is_a_parent_of_later_tasks(db: Connection) -> None:
    """Once its graph was submitted; before that its id is unknown."""
    with peers.graph() as graph:
        node = graph.add("a")
        with pytest.raises(peers.BadGraph, match="not been submitted yet"):
            double.after(node).submit(n=1)
    assert states(db, double.after([node]).submit(n=1)) == ["blocked"]


# -------------------------------------------------------------------------------- inside a handler


@pytest.fixture
def in_handler(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    """The test runs as a handler, without a database URL."""
    monkeypatch.delenv("PEERS_DATABASE_URL")
    parent = Parent(database_url)
    task = context.CurrentTask(
        id=1, kind="k", attempt=1, token="t", deadline=None, execution_id=5, _scheduler=parent
    )
    with inside_handler(task):
        yield parent


def test_a_handler_uses_its_peer(in_handler: Parent, peer: Peer) -> None:
    """Every operation works there, and result too."""
    task_id = double.submit(n=4)
    assert peers.get(task_id).args == {"n": 4}
    assert [task.id for task in peers.find(state="ready")] == [task_id]
    with pytest.raises(peers.TaskNotFound):
        peers.get(999)
    with pytest.raises(TimeoutError):
        peers.result(task_id, 0.1)
    complete(peer, 8)
    assert double.result(task_id, 20) == 8
    assert asyncio.run(double.result_async(task_id, 20)) == 8
    assert set(in_handler.verbs) == {"submit", "get", "find ready", "outcomes"}


def test_a_role_that_may_not_wait_is_told_which_role_may(database_url: str, peer: Peer) -> None:
    """A submitter cannot read results; peers_reader can, as the hint says."""
    task_id = double.submit(n=3)
    complete(peer, 6)
    submitting, reading = (
        psycopg.conninfo.make_conninfo(database_url, options=f"-c role={role}")
        for role in ("peers_submitter", "peers_reader")
    )
    with (
        Client(submitting) as submitter,
        pytest.raises(NotPermitted, match="peers_reader reads tasks"),
    ):
        submitter.result(task_id, timeout=60)
    with Client(reading) as reader:
        assert reader.result(task_id, timeout=60) == 6
        assert reader.get(task_id).id == task_id
