"""Read what the database measures, at most every ten seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Final, NamedTuple

from peers.database import functions
from peers.database.connection import Connection

_FRESH_SECONDS: Final = 10.0


class Gauge(NamedTuple):
    """The value of one series."""

    name: str
    labels: Mapping[str, str]
    value: float


class Gauges:
    """Keeps the last values, so that frequent readers cost the database nothing.

    It connects for each query, because a connection that is used every ten seconds is not worth a
    place on the server. Any thread may read. While the database cannot be read there are no values.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._values: Sequence[Gauge] = ()
        self._read_at = -_FRESH_SECONDS

    def read(self) -> Sequence[Gauge]:
        """Return the values."""
        with self._lock:
            if time.monotonic() - self._read_at >= _FRESH_SECONDS:
                self._values = self._query()
                self._read_at = time.monotonic()
            return self._values

    def _query(self) -> Sequence[Gauge]:
        try:
            with closing(self._connect()) as connection:
                return [Gauge(*row) for row in functions.gauges(connection)]
        except Exception:  # noqa: BLE001  # the main loop logs what is wrong with the database
            return ()
