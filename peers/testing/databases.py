"""Databases for tests: a template that is migrated once, and a copy of it for each test.

A copy takes 30 to 60 ms, its removal 10 to 30 ms. Truncating the tables instead is no faster, needs
a superuser (Peers refuses TRUNCATE), and waits for every transaction that a test has left open.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, LiteralString, Self
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from peers.client.client import Client
    from peers.testing.clock import Clock

PREFIX: Final = "peers_test_"
_LIFETIME: Final = "1 day"
"""Databases of a run that was killed are removed by a later run after this time."""


def new_run() -> str:
    """Return the part of the names of databases that the processes of one test run share."""
    return secrets.token_hex(4)


def as_url(conninfo: str) -> str:
    """Return a connection string as a URL, which libpq and SQLAlchemy take."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    host = parts.get("host", "")
    if not host or host.startswith(("/", "@")) or "," in host:  # a socket, or several hosts
        return f"postgresql:///?{urlencode(parts, quote_via=quote)}"
    user, password = parts.pop("user", ""), parts.pop("password", "")
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    place = f"[{host}]" if ":" in parts.pop("host") else host
    port = f":{parts.pop('port')}" if "port" in parts else ""
    name = quote(parts.pop("dbname", ""), safe="")
    query = f"?{urlencode(parts, quote_via=quote)}" if parts else ""
    return f"postgresql://{login + '@' if login else ''}{place}{port}/{name}{query}"


class Database:
    """A database with the schema of Peers, for one test.

    Any database can be used: `Database("postgresql://…/shop_test")`. Its tasks are those of a test,
    so do not name one that is in use for anything else: `drain` runs them, and `clock` moves its
    time. Both need the role that owns the schema.
    """

    def __init__(self, url: str) -> None:
        self.conninfo = url
        self.url = as_url(url)
        self._client: Client | None = None

    @property
    def sqlalchemy_url(self) -> str:
        """Return the URL for `sqlalchemy.create_engine`, with the driver psycopg."""
        return self.url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def client(self) -> Client:
        """Return a client of this database. It is closed with the database."""
        from peers.client.client import Client

        if self._client is None:
            self._client = Client(self.url, application_name="peers test")
        return self._client

    @property
    def clock(self) -> Clock:
        """Return the clock of the scheduler in this database."""
        from peers.testing.clock import Clock

        return Clock(self.url)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Return a new connection in autocommit mode. Close it, or use it in a `with` block."""
        return psycopg.connect(self.url, autocommit=True)

    def migrate(self) -> None:
        """Create the schema of Peers, or update it."""
        from peers.database import schema
        from peers.database.connection import connect

        with connect(self.url, application_name="peers test") as connection:
            schema.migrate(connection)

    def perform_for_handler(self, verb: str, payload: object) -> Any:
        """Perform a request of a handler that runs without a lease, and return its reply."""
        from peers.client.transaction import LazyConnection
        from peers.client.transport import perform_for_handler
        from peers.database.connection import connect

        connection = LazyConnection(lambda: connect(self.url, application_name="peers test"))
        try:
            reply = perform_for_handler(
                connection, _transaction_id, verb, json.dumps(payload).encode()
            )
        finally:
            connection.close()
        return json.loads(reply)

    def close(self) -> None:
        """Close the client. The database stays."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _transaction_id(connection: psycopg.Connection[Any]) -> str:
    [[identity]] = connection.execute("select pg_current_xact_id()::text")
    return str(identity)


class Databases:
    """Databases on one server: a template with the schema, and copies of it.

    url: of any database on the server, as a role that may create databases. run: what the processes
    of one test run share, which then share the template (see `new_run`).
    """

    def __init__(self, url: str, run: str | None = None) -> None:
        self._server_url = url
        self._prefix = f"{PREFIX}{run or new_run()}"
        self._template = f"{self._prefix}_template"
        self._made = 0
        from peers.database.connection import connect

        self._admin = connect(url, application_name="peers test")
        # It copies files, which takes less CPU time than the log does, but a checkpoint as well.
        self._strategy = "file_copy" if self._is_off("fsync") else "wal_log"
        self.server_version = str(self._admin.info.parameter_status("server_version"))

    def url(self, name: str) -> str:
        """Return the connection string of one of these databases."""
        return make_conninfo(self._server_url, dbname=name)

    def make_template(self, prepare: Callable[[str], object] | None = None) -> None:
        """Make the template, unless another process of the run has made it.

        `prepare` gets its URL, to add what each test's database contains, such as the tables of the
        application.
        """
        with self._locked():
            if self._exists(self._template):
                return
            self._run("create database {}", self._template)
            try:
                with Database(self.url(self._template)) as database:
                    self.fill(database)
                    if prepare is not None:
                        prepare(database.url)
            except BaseException:
                self.drop(self._template)
                raise

    def fill(self, database: Database) -> None:
        """Create the schema of Peers in the new template."""
        database.migrate()

    @contextmanager
    def copy(self) -> Iterator[Database]:
        """Make a copy of the template, and drop it at the end."""
        name = self._next_name()
        self._run(
            "create database {} template {} strategy {}", name, self._template, self._strategy
        )
        try:
            with Database(self.url(name)) as database:
                yield database
        finally:
            self.drop(name)

    @contextmanager
    def empty_database(self, options: LiteralString = "") -> Iterator[Database]:
        """Make a database without the schema of Peers, and drop it at the end."""
        name = self._next_name()
        self._run("create database {} " + options, name)
        try:
            with Database(self.url(name)) as database:
                yield database
        finally:
            self.drop(name)

    def drop(self, name: str) -> None:
        """Drop a database, and end its sessions."""
        # Before the next one is made: the checkpoint that this takes then has little to write.
        self._run("drop database if exists {} with (force)", name)

    def drop_all(self) -> None:
        """Drop the databases of this run, and those that killed runs have left long ago."""
        for (name,) in self._admin.execute(
            "select datname from pg_database where starts_with(datname, %s)", (self._prefix + "_",)
        ).fetchall():
            self.drop(name)
        for name in self._left_over():
            self.drop(name)

    def close(self) -> None:
        """Close the connection to the server. The template stays for other processes."""
        self._admin.close()

    def _left_over(self) -> list[str]:
        # pg_stat_file returns null for a database that another process drops meanwhile
        with suppress(psycopg.errors.InsufficientPrivilege):
            return [
                name
                for (name,) in self._admin.execute(
                    "select d.datname from pg_database d where starts_with(d.datname, %s)"
                    " and not exists (select from pg_stat_activity a where a.datid = d.oid)"
                    " and (pg_stat_file(format('base/%%s/PG_VERSION', d.oid), true)).modification"
                    "     < now() - %s::interval",
                    (PREFIX, _LIFETIME),
                )
            ]
        return []

    def _next_name(self) -> str:
        self._made += 1
        return f"{self._prefix}_{os.getpid():x}_{self._made}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from peers.database.connection import connect

        with connect(self._server_url, application_name="peers test") as session:
            session.execute("select pg_advisory_lock(hashtextextended(%s, 0))", (self._template,))
            yield  # the lock ends with its session

    def _exists(self, name: str) -> bool:
        query = "select from pg_database where datname = %s"
        return self._admin.execute(query, (name,)).fetchone() is not None

    def _is_off(self, setting: str) -> bool:
        found = self._admin.execute("select current_setting(%s)", (setting,)).fetchone()
        return found == ("off",)

    def _run(self, statement: LiteralString, *names: str) -> None:
        self._admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
