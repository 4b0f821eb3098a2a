"""Connect a command to its database, and perform the client's operations there."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

import psycopg

from peers.cli import output
from peers.cli.exact_json import written
from peers.cli.place import located
from peers.client.transport import perform_text
from peers.database import functions, schema
from peers.database.backoff import Backoff
from peers.database.connection import connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Iterator

    from peers.client.statements import Request
    from peers.database.connection import Connection
    from peers.database.deadlines import BoundedConnection
    from peers.settings import Settings

T = TypeVar("T")
P = ParamSpec("P")

_TIME_FORMATS: Final = {"DateStyle": "ISO", "IntervalStyle": "postgres"}
"""The only ones that psycopg reads."""
_TRIES: Final = 5
_AGAIN: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


@contextmanager
def connected(args: argparse.Namespace) -> Iterator[Connection]:
    """Yield a connection to a database whose schema matches this package.

    Times are in UTC. The schema is installed into an embedded database that lacks it.
    """
    with located(args) as settings, connection_to(settings, args) as connection:
        if settings.embedded and schema.installed_version(connection) is None:
            schema.migrate(connection)
        schema.require(connection)
        connection.add_notice_handler(_relay)
        yield connection


def _relay(notice: psycopg.errors.Diagnostic) -> None:
    """Print what a verb adds to its result, such as how many locked tasks it left out."""
    output.say(notice.message_primary or "")
    if notice.message_hint:
        output.say(f"hint: {notice.message_hint}")


@contextmanager
def connection_to(
    settings: Settings, args: argparse.Namespace, *, pooled: bool = True
) -> Iterator[BoundedConnection]:
    """Yield a connection, whatever schema the database has. It may go through a pooler.

    PgBouncer keeps what is set here for each client. Other settings would leak to the next client.
    """
    with connect(settings.url, application_name=args.command, pooled=pooled) as connection:
        connection.execute("set timezone to 'UTC'")
        for name, value in _TIME_FORMATS.items():
            if not (connection.info.parameter_status(name) or "").startswith(value):
                connection.execute(f"set {name} to '{value}'".encode())
        yield connection


def perform(connection: Connection, request: Request[T], **exact: object) -> T:
    """Perform an operation of the client in its own transaction.

    `exact` replaces fields of the request with JSON whose numbers keep every digit.
    """
    document = written({**request.document, **exact})
    return persistently(perform_text, connection, request.statement, document)


def perform_for_kind(
    connection: Connection, request: Request[T], kind: str, given: Collection[str], **exact: object
) -> T:
    """Perform a submission; its queue and priority are the handler's unless they are given.

    Says so if no peer has had a handler for the kind: it may be misspelt.
    """
    declared = functions.kind_defaults(connection, kind)
    exact |= {name: value for name, value in declared.items() if name not in given}
    result = perform(connection, request, **exact)
    if not declared:
        output.say(f'no peer has had a handler for kind "{kind}" yet: its tasks wait for one')
    return result


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
