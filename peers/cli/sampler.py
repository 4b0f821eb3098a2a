"""Read the parts of the overview again and again, in a thread, with little load on the database."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import psycopg

from peers.cli import overview
from peers.cli.failures import explained
from peers.cli.overview import NOTHING, PARTS, Reading

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Self

    from peers.database.deadlines import BoundedConnection

TIMEOUT: Final = 2.0
"""Seconds for each part."""
_SILENCE_MAX: Final = TIMEOUT + 1.0
"""Seconds after which a database that does not reply at all counts as lost."""
_SHARE_MAX: Final = 0.05
"""The share of its time that the connection works for one part. A part that takes 0.2 s is read
every 4 s at most, and one that reaches its timeout every 40 s."""
_END_WITHIN: Final = 1.0


class Sampler:
    """Keep `readings` up to date during the block; call `changed` after each round of readings.

    When the connection is lost, `trouble` says so until the next one works.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[BoundedConnection]],
        interval: float,
        changed: Callable[[], None],
    ) -> None:
        self.readings: dict[str, Reading] = {}
        self.trouble: str | None = None
        self._connect = connect
        self._interval = interval
        self._changed = changed
        self._ended = threading.Event()
        self._connection: BoundedConnection | None = None
        self._next: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        connection = self._connection
        if connection is not None:
            connection.interrupt(0)  # the statement's own timeout ends it in the server
        self._thread.join(_END_WITHIN)  # a thread that is connecting ends with the process

    def found(self) -> dict[str, Any]:
        """Return what the parts found; an empty value for a part that could not be read."""
        readings = dict(self.readings)
        return {
            **NOTHING,
            **{part: read.found for part, read in readings.items() if read.problem is None},
        }

    def unread(self) -> dict[str, str]:
        """Return why parts could not be read."""
        readings = dict(self.readings)
        return {part: read.problem for part, read in readings.items() if read.problem is not None}

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._sample()
            except Exception as error:  # noqa: BLE001  # without this thread the screen stays old
                if self._ended.is_set():
                    return
                self.trouble = _sentence(error)
                self._changed()
                self._ended.wait(self._interval)
            finally:
                self._connection = None

    def _sample(self) -> None:
        """Sample over one connection until it is lost."""
        with self._connect() as connection:
            connection.answer_within = _SILENCE_MAX
            self._connection = connection
            self._next.clear()
            while not self._ended.is_set():
                began = time.monotonic()
                self._read_due(connection)
                self.trouble = None
                self._changed()
                self._ended.wait(max(0.0, began + self._interval - time.monotonic()))

    def _read_due(self, connection: BoundedConnection) -> None:
        for part, function in PARTS.items():
            if self._ended.is_set() or time.monotonic() < self._next.get(part, 0.0):
                continue
            reading = overview.read(connection, function, TIMEOUT)
            self.readings[part] = reading
            self._next[part] = time.monotonic() + reading.seconds / _SHARE_MAX - self._interval / 2


def _sentence(error: Exception) -> str:
    ours = explained(error)
    if ours is None:
        return f"{type(error).__name__}: {error}"
    cause = ours.__cause__ if isinstance(error, psycopg.Error) else None
    return str(cause or ours.message).strip().split("\n")[0]
