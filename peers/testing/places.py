"""Find the connection that a test names: a database, a URL, or a session of the application."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import psycopg

from peers.client.targets import is_async_target, is_django
from peers.errors import BadArgument, ConfigError
from peers.testing import active
from peers.testing.databases import Database

if TYPE_CHECKING:
    from peers.client.targets import SyncTarget

    Place: TypeAlias = Database | str | SyncTarget


@contextmanager
def connection_of(place: Place | None) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to the place; None: the database of the fixture `peers_database`.

    That of a session is the session's own, in the middle of its transaction. Raises ConfigError
    without a place: the settings may name a database that is in use.
    """
    found = place if place is not None else active.database()
    if found is None:
        raise ConfigError(
            "no test database is known",
            "Use the fixture peers_database, or name a database of your tests: its URL, or a"
            " session.",
        )
    if isinstance(found, Database | str):
        from peers.database.connection import connect

        url = found.url if isinstance(found, Database) else found
        with connect(url, application_name="peers test") as connection:
            yield connection
    else:
        yield _driver_connection(found)


def _driver_connection(target: SyncTarget) -> psycopg.Connection[Any]:
    if is_async_target(target):
        raise BadArgument("this needs a sync session or connection, or the database's URL")
    if isinstance(target, psycopg.Cursor):
        return target.connection
    if isinstance(target, psycopg.Connection):
        return target
    if is_django(target):
        with target.cursor() as cursor:  # it connects
            driver = cursor.connection
    else:
        from sqlalchemy import Connection as SqlalchemyConnection

        bound = target if isinstance(target, SqlalchemyConnection) else target.connection()
        driver = bound.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise BadArgument(f"the session must use the driver psycopg, not {type(driver).__module__}")
    return driver
