"""The Postgres of a measurement: private, durable, the same for all systems."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from peers.embedded import EmbeddedPostgres
from peers.embedded.places import temporary_folder

VERSION: Final = "18"
SETTINGS: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "max_connections": "300",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "log_line_prefix": "%p|%d|",  # statement_log.py reads it
    "log_parameter_max_length": "0",
}
_BLOCK: Final = 8192
_FLUSHES: Final = 50

Connection = psycopg.Connection[tuple[Any, ...]]


class Server:
    """A running server. Each run of each system gets a database of its own."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self.version = postgres.server_version
        self.log = postgres.log
        self.flush_microseconds = flush_microseconds(postgres.data)

    @property
    def postmaster(self) -> int:
        """The process id of the server's first process."""
        pid = self._postgres.pid
        if pid is None:
            raise RuntimeError(f"Postgres has ended; its log is {self.log}")
        return pid

    def url(self, database: str) -> str:
        """Return the URL of a database of this server."""
        return self._postgres.url(database)

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Create an empty database and yield its URL. Drop it afterwards."""
        identifier = sql.Identifier(name)
        with connect(self.url("postgres")) as connection:
            connection.execute(sql.SQL("create database {}").format(identifier))
            try:
                yield self.url(name)
            finally:
                drop = sql.SQL("drop database {} with (force)").format(identifier)
                connection.execute(drop)


@contextmanager
def running() -> Iterator[Server]:
    """Start a server in a temporary folder. Stop it and remove the folder afterwards."""
    folder = temporary_folder()
    postgres = EmbeddedPostgres(folder, version=VERSION, settings=SETTINGS)
    try:
        postgres.start()
        yield Server(postgres)
    finally:
        postgres.stop()
        postgres.close()
        for place in (postgres.sockets, folder):
            shutil.rmtree(place, ignore_errors=True)


def connect(url: str) -> Connection:
    """Open a connection in autocommit mode."""
    return psycopg.connect(url, autocommit=True, application_name="benchmark")


def tidy(url: str) -> None:
    """Leave the tables as after a quiet hour: vacuumed, analysed, and written to disk."""
    with connect(url) as connection:
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")


def flush_microseconds(folder: Path) -> float:
    """Return the median time that this disk takes to write and flush one block."""
    file = folder / "flush"
    taken = []
    with file.open("wb", buffering=0) as opened:
        for _ in range(_FLUSHES):
            began = time.monotonic_ns()
            opened.write(bytes(_BLOCK))
            os.fdatasync(opened.fileno())
            taken.append((time.monotonic_ns() - began) / 1000)
    file.unlink()
    return statistics.median(taken)
