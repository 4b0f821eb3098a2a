"""The main loop's connection: lost and found again, without keeping the loop waiting for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from peers import events
from peers.db import Backoff, Connection, is_connection_lost
from peers.errors import DatabaseUnreachable, PeersError

Answer = TypeVar("Answer")


class Link:
    """At most one connection. After a loss the next try comes after a jittered wait."""

    def __init__(self, connect: Callable[[], Connection], on_return: Callable[[], None]) -> None:
        self._connect = connect
        self._on_return = on_return
        self._connection: Connection | None = None
        self._backoff = Backoff()
        self._lost_at = 0.0
        self.again_at = 0.0
        """When (monotonic) the next try is due."""

    @property
    def up(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._connection is not None

    def open(self) -> Connection:
        """Connect for the first time; what goes wrong is raised."""
        self._connection = self._connect()
        return self._connection

    def restore(self) -> bool:
        """Connect again if that is due; answers whether there is a connection now."""
        if self._connection is not None:
            return True
        if time.monotonic() < self.again_at:
            return False
        try:
            self._connection = self._connect()
        except PeersError as error:
            self._wait(str(error))
            return False
        self._backoff.reset()
        events.database_back(seconds=time.monotonic() - self._lost_at)
        self._on_return()
        return self._connection is not None

    def do(self, work: Callable[[Connection], Answer]) -> Answer:
        """Do something with the connection.

        Raises `DatabaseUnreachable` when there is none, or it breaks: then nobody knows whether it
        was done.
        """
        if self._connection is None:
            raise DatabaseUnreachable("the database cannot be reached at the moment")
        try:
            return work(self._connection)
        except psycopg.Error as error:
            # operational: also deadlocks, shutdowns, full disks, whatever may be over in a moment
            if not isinstance(error, psycopg.OperationalError) and not is_connection_lost(error):
                raise
            self._connection.close()
            self._connection = None
            self._lost_at = time.monotonic()
            self._wait(str(error).strip())
            raise DatabaseUnreachable(f"lost the database: {error}") from error

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait(self, reason: str) -> None:
        wait = self._backoff.next()
        self.again_at = time.monotonic() + wait
        events.database_lost(reason=reason, retry_in=wait)
