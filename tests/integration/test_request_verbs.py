"""Requests of handlers: a malformed or blocked one costs an error, and nothing more."""

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
from peers.peer.request_verbs import execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.database.connection import Connection


@pytest.fixture
def connection(database_url: str) -> Iterator[LazyConnection]:
    """Make a connection like that of a peer."""

    def make() -> Connection:
        connection = connect(database_url, application_name="test")
        connection.execute("set statement_timeout to '20s'")
        connection.execute("set lock_timeout to '250ms'")
        return connection

    connection = LazyConnection(make)
    yield connection
    connection.close()


def ask(connection: LazyConnection, verb: str, body: str) -> float:
    """Execute a request of a handler."""
    task = Claimed(1, uuid4(), 1, "a", b"{}", None, 100)
    return float(json.loads(execute(connection, uuid4(), task, verb, body.encode())))


@pytest.mark.parametrize("seconds", ["1e300", "-1e300", "Infinity", "NaN", "null", '"long"', "0"])
def test_a_malformed_cooldown_is_an_error_of_the_handler(
    connection: LazyConnection, seconds: str
) -> None:
    """Whatever number it gives: it gets BadTask, and the connection still works."""
    with pytest.raises(BadTask):
        ask(connection, "start_cooldown", f'{{"name": "a", "seconds": {seconds}, "reason": null}}')
    assert ask(connection, "cooldown_left", '{"name": "a"}') == 0


def test_a_locked_cooldown_is_not_waited_for(connection: LazyConnection, database_url: str) -> None:
    """A session that holds the row in a transaction costs the handler an error."""
    told = '{"name": "a", "seconds": 60, "reason": "busy"}'
    assert ask(connection, "start_cooldown", told) > 0
    with psycopg.connect(database_url) as other:
        other.execute("select from peers.cooldown for update")
        with pytest.raises(DatabaseUnreachable, match="start_cooldown: another session"):
            ask(connection, "start_cooldown", told)
        assert ask(connection, "cooldown_left", '{"name": "a"}') > 0
    assert ask(connection, "start_cooldown", told) > 0
