"""Keep the logs of attempts until the database has stored them, beside the outcomes.

A log is worth less than an outcome. So an error of the database loses the log and nothing else, and
in a long outage only the newest logs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers import events
from peers.database import statements
from peers.database.connection import is_connection_lost
from peers.database.pipeline import Statement
from peers.database.statements import LogToStore
from peers.pool.lease import Lease
from peers.pool.log_tail import KeptText

_BYTES_MAX: Final = 16 << 20
"""Bytes of logs that wait, and of those in one statement."""
_STATEMENT_BYTES_MAX: Final = 4 << 20
_TOO_MANY: Final = "too many logs wait for the database"


class WaitingLogs:
    """The logs that wait, each under the key of its attempt: a later state replaces an earlier."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, bytes], LogToStore] = {}
        self._kinds: dict[tuple[int, bytes], str] = {}
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, lease: Lease, outcome: str | None, log: KeptText | None) -> None:
        """Add the log of an attempt; None: the database forgets what it has of it."""
        task = lease.task
        text, size = (None, 0) if log is None else log
        self._kinds[task.task_id, lease.token] = task.kind
        self._put(LogToStore(task.task_id, lease.token, task.attempt, outcome, size, text))
        while self._bytes > _BYTES_MAX:
            self._lose(self._remove(next(iter(self._waiting))), _TOO_MANY)

    def take(self) -> list[LogToStore]:
        """Take what the next statement stores."""
        taken: list[LogToStore] = []
        size = 0
        for key, log in list(self._waiting.items()):
            size += _size(log)
            if taken and size > _STATEMENT_BYTES_MAX:
                break
            taken.append(self._remove(key))
        return taken

    def conclude(self, logs: Sequence[LogToStore], stored: PGresult) -> None:
        """Log the error for which the database has not stored these, if there is one."""
        error = statements.read_error(stored)
        for log in logs:
            if error is None:
                self._forget_kind(log)
            else:
                self._lose(log, error)

    def put_back(self, logs: Sequence[LogToStore]) -> None:
        """Take back logs that were perhaps not stored, unless there is a later state already."""
        for log in logs:
            if _key(log) not in self._waiting:
                self._put(log)

    def store(self, run: Callable[[Statement], PGresult], peer_id: UUID, encoding: str) -> None:
        """Store all logs now. Raises if the connection is lost, and keeps the logs."""
        while logs := self.take():
            try:
                stored = run(statements.store_logs(peer_id, logs, encoding))
            except Exception as error:
                if is_connection_lost(error):
                    self.put_back(logs)
                    raise
                for log in logs:
                    self._lose(log, str(error).strip())
            else:
                self.conclude(logs, stored)

    def _put(self, log: LogToStore) -> None:
        if _key(log) in self._waiting:
            self._remove(_key(log))
        self._waiting[_key(log)] = log
        self._bytes += _size(log)

    def _remove(self, key: tuple[int, bytes]) -> LogToStore:
        log = self._waiting.pop(key)
        self._bytes -= _size(log)
        return log

    def _lose(self, log: LogToStore, reason: str) -> None:
        events.task_log_lost(
            task_id=log.task_id, kind=self._forget_kind(log), attempt=log.attempt,
            token=UUID(bytes=log.token), reason=reason,
        )  # fmt: skip

    def _forget_kind(self, log: LogToStore) -> str:
        if _key(log) in self._waiting:  # a later state waits
            return self._kinds[_key(log)]
        return self._kinds.pop(_key(log), "")


def _key(log: LogToStore) -> tuple[int, bytes]:
    return log.task_id, log.token


def _size(log: LogToStore) -> int:
    return len(log.text or "")
