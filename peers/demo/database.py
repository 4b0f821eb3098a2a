"""The demo's database: the one that is named, else the embedded one; and how to look into it."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from peers.database import schema
from peers.demo.options import URL_VARIABLE
from peers.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Database:
    """A database with the schema. `embedded` is None when it was named by its URL."""

    url: str
    connection: psycopg.Connection[Any]
    embedded: EmbeddedPostgres | None

    @property
    def sentence(self) -> str:
        """What it is, in a line."""
        if self.embedded is None:
            return f"database: {_without_password(self.url) or 'the one of the PG… variables'}"
        return (
            f"using the embedded Postgres {self.embedded.server_version} of this machine, in "
            f"{self.embedded.data} (--database-url names another)"
        )

    def psql(self) -> str:
        """The shell command for a psql on it, while the server runs."""
        program = self.embedded.psql() if self.embedded else None
        return shlex.join([str(program or "psql"), _without_password(self.url)])

    def peers(self, command: str) -> str:
        """The shell command for `peers COMMAND` on it."""
        beside = Path(sys.executable).with_name("peers")
        program = shlex.join([str(beside)] if beside.exists() else [sys.executable, "-m", "peers"])
        if self.embedded is not None:
            return f"{program} {command}" + ("" if command.startswith("db ") else " --embedded")
        if os.environ.get(URL_VARIABLE) == self.url:
            return f"{program} {command}"
        return f"{URL_VARIABLE}={shlex.quote(_without_password(self.url))} {program} {command}"


@contextmanager
def open_database(url: str | None) -> Iterator[Database]:
    """Connect, and bring the schema into the database if it is not there.

    Raises psycopg.OperationalError when there is no connection, EmbeddedError, and a PeersError for
    a schema of another release.
    """
    embedded = EmbeddedPostgres()
    if url is None or url == embedded.url():
        with embedded, psycopg.connect(embedded.url(), autocommit=True) as connection:
            schema.migrate(connection)
            yield Database(embedded.url(), connection, embedded)
        return
    with psycopg.connect(url, autocommit=True) as connection:
        if schema.installed_version(connection) is None:
            schema.migrate(connection)
        schema.require(connection)
        yield Database(url, connection, None)


def _without_password(url: str) -> str:
    parameters: dict[str, Any] = conninfo_to_dict(url)
    return make_conninfo(**parameters) if parameters.pop("password", None) else url
