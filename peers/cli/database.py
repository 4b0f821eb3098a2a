"""The database that a command works on: configured, or the embedded one."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr

from peers import db, schema
from peers.cli.exact_json import JsonLoader
from peers.errors import ConfigError, DatabaseUnreachable, translated
from peers.settings import Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import LiteralString

    from peers.db import Connection

T = TypeVar("T")
P = ParamSpec("P")

_TRIES: Final = 5
_AGAIN: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


def settings_of(args: argparse.Namespace) -> Settings:
    """The settings, with those flags that the command has. Raises ConfigError."""
    return Settings(
        config=args.config, **{name: getattr(args, name) for name in args.setting_flags}
    )


def wants_embedded(args: argparse.Namespace, settings: Settings) -> bool:
    """Whether flags or settings ask for the embedded database. Raises ConfigError for both."""
    if args.embedded or args.database_url is not None:
        return bool(args.embedded)
    if settings.embedded and settings.has_database:
        raise ConfigError(
            "both a database and the embedded one are configured",
            "`peers config` shows by whom; leave one out, or say --embedded or --database-url.",
        )
    return settings.embedded


@contextmanager
def located(args: argparse.Namespace) -> Iterator[Settings]:
    """The settings with a database; an embedded server is held meanwhile.

    `embedded` then says what it is. Raises ConfigError when no database is configured,
    DatabaseUnreachable when the embedded one cannot be started.
    """
    settings = settings_of(args)
    if not wants_embedded(args, settings):
        _ = settings.url  # raises where nothing is configured
        yield settings.model_copy(update={"embedded": False})
        return
    from peers.embedded import EmbeddedPostgres

    with embedded_errors():
        postgres = EmbeddedPostgres()
        url = SecretStr(postgres.start())
    try:
        yield settings.model_copy(update={"embedded": True, "database_url": url})
    finally:
        postgres.close()


@contextmanager
def embedded_errors() -> Iterator[None]:
    """What is wrong with the embedded server, as an error of a database that cannot be reached."""
    from peers.embedded import EmbeddedError

    try:
        yield
    except EmbeddedError as error:
        raise DatabaseUnreachable(str(error)) from error


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
    with db.connect(settings.url, application_name=args.command, pooled=pooled) as connection:
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
    backoff = db.Backoff()
    for tries_left in reversed(range(_TRIES)):
        try:
            with connection.transaction():
                return verb(connection, *arguments, **options)
        except _AGAIN:
            if not tries_left:
                raise
            time.sleep(backoff.next())
    raise AssertionError("the last try returns or raises")
