"""Logs that wait for the database: the newest state of each, bounded, and never in the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from unittest.mock import Mock
from uuid import UUID, uuid4

import psycopg
import pytest

from peers.events import fields_of, name_of
from peers.peer.waiting_logs import WaitingLogs
from peers.pool.log_tail import KeptText

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from peers.database.pipeline import Statement
    from peers.pool.lease import Lease

PEER = uuid4()


def lease(task_id: int) -> Lease:
    """A running task."""
    task = SimpleNamespace(task_id=task_id, kind="a", attempt=1)
    return cast("Lease", SimpleNamespace(task=task, token=UUID(int=task_id).bytes))


def reply(error: str | None = None) -> PGresult:
    """What peers.store_logs returns."""
    return Mock(get_value=lambda _row, _column: None if error is None else error.encode())


def lost(caplog: pytest.LogCaptureFixture) -> list[int]:
    """The tasks whose logs were lost, as it was logged."""
    events = [record for record in caplog.records if name_of(record) == "task_log_lost"]
    assert all(fields_of(record)["kind"] == "a" for record in events)
    return [fields_of(record)["task_id"] for record in events]


def test_a_later_state_replaces_one_that_waits() -> None:
    """Also one that comes back because its transaction has failed."""
    logs, running = WaitingLogs(), lease(1)
    logs.add(running, None, KeptText("one", 3))
    logs.add(running, None, KeptText("one two", 7))
    taken = logs.take()
    assert [(log.task_id, log.text) for log in taken] == [(1, "one two")]
    logs.add(running, "failed", KeptText("one two three", 13))
    logs.put_back(taken)
    assert [(log.outcome, log.text) for log in logs.take()] == [("failed", "one two three")]
    assert not logs


def test_a_long_outage_keeps_the_newest(caplog: pytest.LogCaptureFixture) -> None:
    """16 MiB in all; the others are named."""
    logs, text = WaitingLogs(), KeptText("x" * 65_536, 65_536)
    for task_id in range(1, 301):
        logs.add(lease(task_id), "failed", text)
    assert lost(caplog) == list(range(1, 45))
    taken = []
    while part := logs.take():
        assert sum(len(log.text or "") for log in part) <= 4 << 20
        taken += part
    assert [log.task_id for log in taken] == list(range(45, 301))


@pytest.mark.parametrize("raises", [True, False])
def test_what_the_database_refuses_is_logged_and_gone(
    caplog: pytest.LogCaptureFixture, *, raises: bool
) -> None:
    """Whether it returns the error or, such as for a missing function, raises it."""
    logs = WaitingLogs()
    logs.add(lease(1), "failed", KeptText("text", 4))

    def run(_statement: Statement) -> PGresult:
        if raises:
            raise psycopg.errors.UndefinedFunction("no such function")
        return reply("no logs today")

    logs.store(run, PEER, "UTF8")
    assert lost(caplog) == [1]
    assert not logs


def test_a_lost_connection_loses_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """They are stored when the database is back."""
    logs = WaitingLogs()
    logs.add(lease(1), "failed", KeptText("text", 4))

    def run(_statement: Statement) -> PGresult:
        raise psycopg.errors.AdminShutdown("terminating connection")

    with pytest.raises(psycopg.errors.AdminShutdown):
        logs.store(run, PEER, "UTF8")
    assert logs
    logs.store(lambda _statement: reply(), PEER, "UTF8")
    assert not logs
    assert lost(caplog) == []
