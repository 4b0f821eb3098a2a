"""What was submitted is found, and a message shows what comes near."""

from __future__ import annotations

import asyncio
from datetime import date

import psycopg
import pytest

import peers
from peers import BadArgument, current_task, handlers, task
from peers.testing import (
    Database,
    TaskRun,
    assert_not_submitted,
    assert_submitted,
    assert_submitted_async,
    submitted,
    submitted_async,
)


@pytest.fixture(autouse=True)
def _no_other_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_registry", "_limits", "_schedules"):
        monkeypatch.setattr(handlers, name, {})


@pytest.mark.usefixtures("database")
def test_submitted_tasks_are_found_by_their_fields() -> None:
    """Args are compared as JSON, and others may be there as well."""
    first = peers.submit("mail.send", {"to": "ann", "day": date(2026, 1, 2), "more": 1})
    second = peers.submit("mail.send", {"to": "bob"}, queue="mail", metadata={"a": 1, "b": 2})
    peers.submit("other")
    assert [one.id for one in submitted()][:2] == [first, second]
    assert [one.id for one in submitted("mail.send", queue="mail")] == [second]
    found = assert_submitted("mail.send", {"to": "ann", "day": date(2026, 1, 2)}, count=1)
    assert [one.id for one in found] == [first]
    assert len(assert_submitted("mail.send", count=2)) == 2
    assert_submitted("mail.send", queue="mail", metadata={"a": 1}, state="ready")
    assert_not_submitted("mail.send", {"to": "eve"})


@pytest.mark.usefixtures("database")
def test_a_message_shows_what_comes_near() -> None:
    """The nearest task first, and how it differs."""
    peers.submit("mail.send", {"to": "bob", "n": 1})
    peers.submit("mail.send", {"to": "ann", "n": 2})
    with pytest.raises(AssertionError) as caught:
        assert_submitted("mail.send", {"to": "ann", "n": 3}, queue="mail", priority=100)
    assert str(caught.value).splitlines() == [
        "expected at least one task of kind 'mail.send', queue 'mail', priority 100, args "
        "{'to': 'ann', 'n': 3}; submitted: none",
        "of the same kind, nearest first:",
        "  task 2: args {'n': 2, 'to': 'ann'}",
        "    queue is 'default', not 'mail'",
        "    args['n'] is 2, not 3",
        "  task 1: args {'n': 1, 'to': 'bob'}",
        "    queue is 'default', not 'mail'",
        "    args['to'] is 'bob', not 'ann'",
        "    args['n'] is 1, not 3",
    ]


@pytest.mark.usefixtures("database")
def test_a_message_shows_too_many_and_other_kinds() -> None:
    """A misspelt kind is recognized."""
    with pytest.raises(AssertionError, match="no task of any kind was submitted"):
        assert_submitted("mail.send")
    for _ in range(7):
        peers.submit("mail.send", {"to": "ann"})
    with pytest.raises(AssertionError, match=r"(?s)expected 1 task .*submitted: 7.*… and 2 more"):
        assert_submitted("mail.send", count=1)
    with pytest.raises(AssertionError, match=r"expected no tasks .*submitted: 7"):
        assert_not_submitted("mail.send")
    with pytest.raises(AssertionError, match=r"(?s)mail\.send \(7\).*did you mean 'mail\.send'"):
        assert_submitted("mail.sent")
    with pytest.raises(BadArgument, match=r"no field 'que'.*queue"):
        assert_submitted("mail.send", que="mail")

    @task("mail.sent")
    def sent() -> None: ...

    with pytest.raises(AssertionError) as raised:
        assert_submitted(sent)
    assert "did you mean" not in str(raised.value)


@pytest.mark.usefixtures("database")
def test_more_tasks_than_one_page_are_found() -> None:
    """A count is right beyond what one query returns."""
    peers.submit_many("many", [{}] * 1001)
    assert_submitted("many", count=1001)


def test_the_default_client_is_asked_without_a_fixture(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading does no harm, whatever database that is."""
    monkeypatch.setenv("PEERS_DATABASE_URL", Database(database_url).url)
    peers.submit("a")
    assert_submitted("a", count=1)
    assert_submitted("a", count=1, within=database_url)


def test_an_async_connection_sees_what_it_has_not_committed(database: Database) -> None:
    """Others do not."""

    async def test() -> None:
        async with await psycopg.AsyncConnection.connect(database.url) as connection:
            await peers.submit_in(connection, "a", {"x": 1})
            await assert_submitted_async("a", {"x": 1}, within=connection, count=1)
            assert len(await submitted_async(within=connection)) == 1
            with pytest.raises(BadArgument, match="_async"):
                assert_submitted("a", within=connection)  # type: ignore[arg-type]
            await connection.rollback()

    asyncio.run(test())
    assert submitted() == []
    with pytest.raises(BadArgument, match="must be an async session"):
        asyncio.run(submitted_async(within=database))  # type: ignore[arg-type]


def test_what_an_inline_handler_submits_is_found() -> None:
    """In the run, without a database."""

    @task("outer")
    def outer() -> None:
        peers.submit("inner", {"n": current_task().attempt}, priority=7)

    run = TaskRun(outer)
    run.run()
    assert_submitted("inner", {"n": 1}, within=run, count=1, priority=7)
    with pytest.raises(AssertionError, match=r"args\['n'\] is 1, not 2"):
        assert_submitted("inner", {"n": 2}, within=run)


def test_an_inline_handler_submits_to_the_database_of_the_test(database: Database) -> None:
    """So the test can drain what it has submitted."""

    @task("outer")
    def outer() -> int:
        return peers.submit("inner", {"n": 1})

    run = TaskRun(outer)
    id_ = run.run()
    assert [one.id for one in run.submitted] == [id_]
    assert database.client.get(id_).args == {"n": 1}
    assert_submitted("inner", count=1)
