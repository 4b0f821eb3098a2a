"""The connection of a command to its database."""

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
from peers.database.backoff import Backoff
from peers.database.connection import connect
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
    """Takes json and jsonb from the database as they are."""

    def load(self, data: Buffer) -> Json:
        """Return the text."""
        return Json(bytes(data).decode())


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Connection]:
    """A connection for one command, to a database whose schema fits.

    Times come in UTC. An embedded database without a schema gets it: it is nobody else's.
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
    """A connection for one command, whatever schema there is; it may lead through a pooler.

    PgBouncer knows the time zone of each client; other settings would be left to the next one.
    """
    with connect(settings.url, application_name=args.command, pooled=pooled) as connection:
        connection.execute("set timezone to 'UTC'")
        yield connection


def rows(connection: Connection, query: LiteralString, **values: object) -> list[dict[str, Any]]:
    """Return what a view or function of the schema shows, by the names of its columns.

    JSON comes as its text: see exact_json.
    """
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
    """Call a verb in a transaction of its own, and again when it met another one head-on.

    A transaction, since only in one a verb has the isolation level that it needs (db.connect).
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
