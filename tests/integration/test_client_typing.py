"""What type checkers know of the API. mypy is the test: each `type: ignore` must be needed.

pyright reports the same (it was run by hand; the repository does not depend on it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import peers

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session


@peers.task("typing.render")
def render(path: str, *, after: int = 0, on_parent_failure: str = "x") -> bytes:
    """Have parameters that are named like the options of an edge."""
    return path.encode() * after + on_parent_failure.encode()


@peers.task("typing.fetch")
async def fetch(url: str) -> list[str]:
    """Be async."""
    return [url]


@peers.task("typing.batch", batch_size=8)
def batch(rows: list[Any]) -> list[int]:
    """Run many tasks at once."""
    return [len(rows)] * len(rows)


def sync_calls(session: Session, connection: psycopg.Connection[Any]) -> None:
    """What the sync forms take and return."""
    assert_type(render.submit("a", after=3), peers.TaskId)
    assert_type(render.result(1), bytes)
    assert_type(fetch.result(1, timeout=3), list[str])
    assert_type(batch.result(1), Any)
    assert_type(render.submit_in(session, "a"), peers.TaskId)
    assert_type(render.options(priority=1).after(1, [2]).submit_in(connection, "a"), peers.TaskId)
    assert_type(peers.get(1), peers.TaskRecord)
    assert_type(peers.get_in(session, 1), peers.TaskRecord)
    assert_type(peers.find(state="dead", graph=3), list[peers.TaskRecord])
    assert_type(peers.cancel(1), peers.TaskState)
    assert_type(peers.graph_status(1), peers.GraphStatus)
    peers.get("1")  # type: ignore[arg-type]
    peers.find(colour="red")  # type: ignore[call-arg]
    peers.find_in(session, limit="all")  # type: ignore[call-overload]
    render.submit(3)  # type: ignore[arg-type]
    render.submit("a", width=3)  # type: ignore[call-arg]
    render.options(colour="red")  # type: ignore[call-arg]
    render.submit_in("postgresql://", "a")  # type: ignore[call-overload]


def kinds(session: Session, connection: psycopg.Connection[Any]) -> None:
    """A kind is named by its name, or by its task."""
    assert_type(peers.submit(render, "a", after=3), peers.TaskId)
    assert_type(peers.submit("any.kind", {"a": 1}, priority=3), peers.TaskId)
    assert_type(peers.submit("any.kind", args={"a": 1}), peers.TaskId)
    assert_type(peers.submit_in(session, render, "a"), peers.TaskId)
    assert_type(peers.submit_in(connection, "any.kind", priority=3), peers.TaskId)
    assert_type(peers.submit_many(batch, [{"n": 1}]), list[peers.TaskId])
    assert_type(peers.find(kind=render), list[peers.TaskRecord])
    peers.add_schedule("nightly", fetch, {"url": "b"}, every=60)
    assert_type(peers.cancel_backfill(1), bool)
    peers.submit(render)  # type: ignore[call-overload]
    peers.submit(render, path=3)  # type: ignore[call-overload]
    peers.find(kind=len)  # type: ignore[arg-type]


def graphs() -> None:
    """A graph takes what submit takes."""
    with peers.graph(name="nightly") as graph:
        node = graph.add(render, "a", after=3, on_parent_failure="handler's own")
        graph.add(fetch.after(node, on_parent_failure="run"), url="b")
        graph.add(batch, n=3)
        graph.add("any.kind", {"after": 1}, depends_on=[node], priority=3)
        graph.add(render)  # type: ignore[call-overload]
        graph.add(render, path=3)  # type: ignore[call-overload]
        graph.add(fetch, url="b", after=[node])  # type: ignore[call-overload]
        graph.add("any.kind", {"a": 1}, colour="red")  # type: ignore[call-overload]


async def async_calls(session: AsyncSession, client: peers.AsyncClient) -> None:
    """What the async forms return; a forgotten await is seen."""
    assert_type(await render.submit_async("a"), peers.TaskId)
    assert_type(await fetch.result_async(1), list[str])
    assert_type(await render.submit_in(session, "a"), peers.TaskId)
    assert_type(await peers.get_in(session, 1), peers.TaskRecord)
    assert_type(await peers.find_async(limit=3), list[peers.TaskRecord])
    assert_type(await client.get(1), peers.TaskRecord)
    assert_type(await client.submit(render, "a"), peers.TaskId)
    assert_type(await peers.submit_async(render, "a"), peers.TaskId)
    assert_type(await peers.submit_async("any.kind", {"a": 1}), peers.TaskId)
    assert_type(await peers.submit_in(session, render, "a"), peers.TaskId)
    assert_type(await client.result(1, task=fetch), list[str])
    render.submit_in(session, "a")  # type: ignore[unused-coroutine]
    render.submit_async("a")  # type: ignore[unused-coroutine]
    peers.get_in(session, 1)  # type: ignore[unused-coroutine]
    peers.cancel_async(1)  # type: ignore[unused-coroutine]
    client.cancel(1)  # type: ignore[unused-coroutine]
    await client.submit(render, 3)  # type: ignore[call-overload]


def objects(client: peers.Client) -> None:
    """A client's methods have the same types."""
    assert_type(client.submit(render, "a", after=1), peers.TaskId)
    assert_type(client.submit("any.kind", {"a": 1}, priority=3), peers.TaskId)
    assert_type(client.get(1), peers.TaskRecord)
    assert_type(client.result(1, task=render), bytes)
    assert_type(client.result(1, task=fetch), list[str])
    assert_type(client.result(1), Any)
    client.submit(render, 3)  # type: ignore[call-overload]
    client.retry("1")  # type: ignore[arg-type]


def test_a_forgotten_parameter_is_found_at_run_time_too() -> None:
    """A graph checks like submit."""
    graph = peers.graph()
    with_wrong_type: Any = 3
    for wrong in (lambda: graph.add(render), lambda: graph.add(render, path=with_wrong_type)):  # type: ignore[call-overload]
        try:
            wrong()
        except peers.ArgsInvalid as error:
            assert "path" in str(error)  # noqa: PT017
        else:
            raise AssertionError("it was taken")


def test_help_shows_the_signature_of_an_operation() -> None:
    """The forms are derived, and their users need not know."""
    import inspect

    assert str(inspect.signature(peers.get)) == "(id: 'int') -> 'TaskRecord'"
    assert str(inspect.signature(peers.Client.cancel)) == "(self, /, id: 'int') -> 'TaskState'"
    assert list(inspect.signature(peers.retry_in).parameters) == ["target", "ids", "args"]
    assert peers.get_async.__name__ == "get_async"
    assert peers.get_async.__doc__ == peers.get.__doc__ != None  # noqa: E711
