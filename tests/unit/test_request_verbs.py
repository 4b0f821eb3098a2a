"""What a handler asks of its peer: the loop that answers neither fails nor waits for long."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import uuid4

import psycopg
import pytest

from peers.client.transaction import LazyConnection
from peers.database.connection import connect
from peers.database.rows import Claimed
from peers.errors import BadTask, DatabaseUnreachable
from peers.peer.request_verbs import answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.database.connection import Connection


@pytest.fixture
def connection(database_url: str) -> Iterator[LazyConnection]:
    """A connection as a peer has it."""

    def make() -> Connection:
        connection = connect(database_url, application_name="test")
        connection.execute("set statement_timeout to '20s'")
        connection.execute("set lock_timeout to '250ms'")
        return connection

    connection = LazyConnection(make)
    yield connection
    connection.close()


def ask(connection: LazyConnection, verb: str, body: str) -> float:
    """Ask as the handler of a task would."""
    task = Claimed(1, uuid4(), 1, "a", b"{}", None, 100)
    return float(json.loads(answer(connection, uuid4(), task, verb, body.encode())))


@pytest.mark.parametrize("seconds", ["1e300", "-1e300", "Infinity", "NaN", "null", '"long"', "0"])
def test_a_cooldown_of_no_sense_is_the_handlers_error(
    connection: LazyConnection, seconds: str
) -> None:
    """Whatever number it gives: BadTask, and the connection is as good as before."""
    with pytest.raises(BadTask):
        ask(connection, "start_cooldown", f'{{"name": "a", "seconds": {seconds}, "reason": null}}')
    assert ask(connection, "cooldown_left", '{"name": "a"}') == 0


def test_a_locked_cooldown_does_not_stop_the_loop(
    connection: LazyConnection, database_url: str
) -> None:
    """Somebody who holds the row in an open transaction costs an error, not the peer's leases."""
    told = '{"name": "a", "seconds": 60, "reason": "busy"}'
    assert ask(connection, "start_cooldown", told) > 0
    with psycopg.connect(database_url) as other:
        other.execute("select from peers.cooldown for update")
        with pytest.raises(DatabaseUnreachable, match="start_cooldown: another session"):
            ask(connection, "start_cooldown", told)
        assert ask(connection, "cooldown_left", '{"name": "a"}') > 0
    assert ask(connection, "start_cooldown", told) > 0
