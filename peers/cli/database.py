"""Connect a command to its database, and run queries."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import psycopg
from psycopg.adapt import Loader
from psycopg.rows import dict_row

from peers.cli.exact_json import Json
from peers.cli.place import located
from peers.database import schema
from peers.database.connection import Backoff, connect
from peers.errors import translated

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import LiteralString

    from psycopg.abc import Buffer

    from peers.database.connection import Connection
    from peers.settings import Settings

T = TypeVar("T")
P = ParamSpec("P")

_TRIES: Final = 5
_AGAIN: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class JsonLoader(Loader):
    """Read json and jsonb as text."""

    def load(self, data: Buffer) -> Json:
        """Return the text."""
        return Json(bytes(data).decode())


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Connection]:
    """Yield a connection to a database whose schema matches this package.

    Times are in UTC. The schema is installed into an embedded database that lacks it.
    """
    with located(args) as settings, connection_to(settings, args) as connection:
        if settings.embedded and schema.installed_version(connection) is None:
            schema.migrate(connection)
        schema.require(connection)
        yield connection


@contextmanager
def connection_to(
    settings: Settings, args: argparse.Namespace, *, pooled: bool = True
) -> Iterator[Connection]:
    """Yield a connection, whatever schema the database has. It may go through a pooler.

    PgBouncer keeps the time zone for each client; other settings would leak to the next client.
    """
    with connect(settings.url, application_name=args.command, pooled=pooled) as connection:
        connection.execute("set timezone to 'UTC'")
        yield connection


def rows(connection: Connection, query: LiteralString, **values: object) -> list[dict[str, Any]]:
    """Return the rows of a query as dictionaries; JSON as text (see exact_json)."""
    with translated(), connection.cursor(row_factory=dict_row) as cursor:
        for name in ("json", "jsonb"):
            cursor.adapters.register_loader(name, JsonLoader)
        return cursor.execute(query, values).fetchall()


def persistently(
    verb: Callable[Concatenate[Connection, P], T],
    connection: Connection,
    *arguments: P.args,
    **options: P.kwargs,
) -> T:
    """Call a function in its own transaction, and again after a deadlock or serialization failure.

    Only within a transaction does it have the isolation level that it needs.
    """
    backoff = Backoff()
    for tries_left in reversed(range(_TRIES)):
        try:
            with connection.transaction():
                return verb(connection, *arguments, **options)
        except _AGAIN:
            if not tries_left:
                raise
            time.sleep(backoff.next())
    raise AssertionError("the last try returns or raises")
