"""The connections of a command, and how it survives an outage of the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg.rows import dict_row

from peers import DatabaseUnreachable
from peers.predict.run.messages import say

if TYPE_CHECKING:
    Connection = psycopg.Connection[Any]

Connect: TypeAlias = "Callable[[], AbstractContextManager[Connection]]"
"""Opens a connection in autocommit."""
T = TypeVar("T")

_RECONNECT_SECONDS: Final = 1.0


def through_outages(connect: Connect, act: Callable[[Connection], T]) -> T:
    """Return the result of `act`; call it again on a new connection if the connection is lost."""
    while True:
        try:
            with connect() as connection:
                return act(connection)
        except (psycopg.OperationalError, DatabaseUnreachable) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            say(f"the database is unreachable ({reason}); trying again until it is back")
            time.sleep(_RECONNECT_SECONDS)


def fetch(connection: Connection, query: str, **values: object) -> list[dict[str, Any]]:
    """Return the rows of a query as dicts."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
