"""The main loop's connection: lost and found again, without keeping the loop waiting for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg

from peers import events
from peers.database.background import Background
from peers.database.connection import Backoff, is_connection_lost
from peers.database.deadlines import BoundedConnection
from peers.database.pooler import refuse_symptom
from peers.errors import DatabaseUnreachable, PeerLost, PeersError

Answer = TypeVar("Answer")

CUT_AFTER: Final = 0.5
"""A statement that runs when a signal comes may take so many seconds more."""


@dataclass(slots=True)
class _Duty:
    """What the database has refused is put off, and longer each time."""

    backoff: Backoff
    again_at: float = 0.0


class ReconnectingConnection:
    """At most one connection. After a loss the next try comes after a jittered wait.

    `on_return` is called with every new connection but the first, `wake` from another thread when a
    try to connect is over, `progress` before each duty: the loop does not hang if several in a turn
    take their time.
    """

    def __init__(
        self,
        connect: Callable[[], BoundedConnection],
        on_return: Callable[[], None],
        wake: Callable[[], None],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._progress = progress
        self._connect = connect
        self._on_return = on_return
        self._wake = wake
        self._connection: BoundedConnection | None = None
        self._attempt: Background[BoundedConnection] | None = None
        self._backoff = Backoff()
        self._duties: dict[str, _Duty] = {}
        self._answers = 0
        self._returning = False
        self._latest = float("inf")
        self._lost_at = 0.0
        self.again_at = float("inf")
        """When (monotonic) the next try is due."""

    @property
    def up(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._connection is not None

    @property
    def puts_off(self) -> bool:
        """Whether the database has refused something that is due again in a moment."""
        now = time.monotonic()
        return any(duty.again_at > now for duty in self._duties.values())

    # ----------------------------------------------------------------------------- up and down

    def adopt(self, connection: BoundedConnection) -> None:
        """Use this connection, the first one."""
        connection.latest = self._latest
        self._connection = connection

    def restore(self) -> bool:
        """Connect again if that is due; answers whether there is a connection now."""
        if self._connection is not None:
            return True
        if self._attempt is None and time.monotonic() >= self.again_at:
            self._begin_attempt()
        return self._attempt is not None and self._attempt.over and self._end_attempt()

    def reopen(self, within: float) -> bool:
        """Connect now if there is no connection, and wait for that; for the last words."""
        if self._connection is None and self._attempt is None:
            self._begin_attempt()
        if self._attempt is not None and self._attempt.wait(within):
            self._end_attempt()
        return self._connection is not None

    def close(self) -> None:
        """Hang up."""
        if self._attempt is not None:
            self._attempt.give_up()
        self._hang_up()

    def cut(self) -> None:
        """Have what runs now end soon. Safe from a signal handler."""
        if self._connection is not None:
            self._connection.cut(CUT_AFTER)

    def end_by(self, latest: float) -> None:
        """All should be over at that time (monotonic): later statements get a last moment."""
        self._latest = latest
        if self._connection is not None:
            self._connection.latest = latest

    def _begin_attempt(self) -> None:
        self.again_at = float("inf")
        try:
            self._attempt = Background(
                self._connect, lambda connection: connection.close(), self._wake
            )
        except RuntimeError as error:  # no thread
            self._wait(str(error))

    def _end_attempt(self) -> bool:
        assert self._attempt is not None
        attempt, self._attempt = self._attempt, None
        try:
            self.adopt(attempt.take())
        except (PeersError, psycopg.Error) as error:
            self._wait(str(error).strip())
            return False
        events.database_back(seconds=time.monotonic() - self._lost_at)
        self._returning = True  # that it can be reached does not mean that it works
        try:
            self._on_return()
        finally:
            self._returning = False
        return self._connection is not None

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._lost_at = time.monotonic()

    def _wait(self, reason: str) -> None:
        wait = self._backoff.next()
        self.again_at = time.monotonic() + wait
        events.database_lost(reason=reason, retry_in=wait)

    # -------------------------------------------------------------------------------- using it

    def do(self, work: Callable[[BoundedConnection], Answer]) -> Answer:
        """Do something with the connection.

        Raises `DatabaseUnreachable` when there is none, or it breaks: then nobody knows whether it
        was done. So too for what may be over in a moment: a lock, a deadlock, a full disk.
        """
        if self._connection is None:
            raise DatabaseUnreachable("the database cannot be reached at the moment")
        try:
            answer = work(self._connection)
        except psycopg.Error as error:
            if is_connection_lost(error):
                self._hang_up()
                self._wait(str(error).strip())
                raise DatabaseUnreachable(f"lost the database: {error}") from error
            if isinstance(error, psycopg.OperationalError):
                raise DatabaseUnreachable(f"the database is not able to: {error}") from error
            raise
        self._answers += 1
        if not self._returning:
            self._backoff.reset()
        return answer

    def attempt(
        self, duty: str, work: Callable[[], None], fatal: type[PeersError] = PeerLost
    ) -> None:
        """Do something that uses the connection. What the database refuses is told and put off.

        Other duties are not concerned. Raises `PeerLost` and `fatal`, `DatabaseUnreachable` when
        the connection is lost, and `ConfigError` when a pooler shows itself.
        """
        known = self._duties.get(duty)
        if known is None:
            known = self._duties[duty] = _Duty(Backoff())
        if time.monotonic() < known.again_at:
            return
        self._progress()
        answers = self._answers
        try:
            work()
        except (PeerLost, fatal):
            raise
        except (psycopg.Error, PeersError) as error:
            refuse_symptom(error)
            if not self.up and isinstance(error, DatabaseUnreachable):
                raise  # and it was told
            self._put_off(known, duty, error)
        else:
            if self._answers > answers:
                known.backoff.reset()

    def _put_off(self, known: _Duty, duty: str, error: Exception) -> None:
        if not isinstance(error, DatabaseUnreachable):
            # the session itself may be the reason: a plan that outlived a migration, for one
            self._hang_up()
            self.again_at = time.monotonic()
        wait = known.backoff.next()
        known.again_at = time.monotonic() + wait
        events.database_refused(duty=duty, error=str(error).strip(), retry_in=wait)
