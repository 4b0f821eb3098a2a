"""The database of the demo: the one that you name, otherwise the embedded one."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from peers.database import schema
from peers.demo.options import URL_VARIABLE
from peers.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator


class Database(NamedTuple):
    """A database with the schema: what it is in a sentence, and how to open psql on it."""

    url: str
    connection: psycopg.Connection[Any]
    sentence: str
    psql_command: str


@contextmanager
def open_database(url: str | None) -> Iterator[Database]:
    """Connect, and install the schema if it is missing. None is the embedded Postgres.

    Raises psycopg.OperationalError when the database cannot be reached, EmbeddedError, and
    PeersError when the schema belongs to another release.
    """
    url = os.environ.get(URL_VARIABLE) or None if url is None else url
    embedded = EmbeddedPostgres()
    if url is None or url == embedded.url():
        with embedded, psycopg.connect(embedded.url(), autocommit=True) as connection:
            schema.migrate(connection)
            sentence = (
                f"using the embedded Postgres {embedded.server_version} in {embedded.data} "
                "(--database-url names another database)"
            )
            psql = shlex.join([sys.executable, "-m", "peers", "db", "psql"])
            yield Database(embedded.url(), connection, sentence, psql)
        return
    with psycopg.connect(url, autocommit=True) as connection:
        if schema.installed_version(connection) is None:
            schema.migrate(connection)
        schema.require(connection)
        shown = without_password(url)
        sentence = f"database: {shown or 'named by libpq variables (PGHOST, PGSERVICE …)'}"
        yield Database(url, connection, sentence, shlex.join(["psql", shown]))


def without_password(url: str) -> str:
    """Return the connection string without its password."""
    parameters: dict[str, Any] = conninfo_to_dict(url)
    return make_conninfo(**parameters) if parameters.pop("password", None) else url
