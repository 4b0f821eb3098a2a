"""Decide how many tasks to insert next."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_REQUEST: Final = "ENQUEUE"


class Credit:
    """Tasks that the harness has asked for and that are not inserted yet.

    The harness sends the same number of requests in its high-load phases: only the file with the
    rate changes. So each request counts as many times as the present rate exceeds the first one.
    """

    def __init__(self, rate: float, rate_file: Path | None) -> None:
        self._rate = rate
        self._rate_file = rate_file
        self._tasks = 0.0
        self._changed = threading.Condition()

    def present_rate(self) -> float:
        """Return the rate in the file, or the first one while the file has no number."""
        if self._rate_file is None:
            return self._rate
        try:
            return max(0.0, float(self._rate_file.read_text()))
        except (OSError, ValueError):  # the harness is just writing it
            return self._rate

    def read(self, lines: Iterable[str]) -> None:
        """Add what is asked for on these lines, until they end."""
        for line in lines:
            word, _, number = line.strip().partition(" ")
            if word == _REQUEST and number.isdecimal():
                self.add(int(number) * self.present_rate() / self._rate if self._rate else 0.0)

    def pass_time(self, seconds: float) -> None:
        """Add what is due after this time."""
        self.add(self.present_rate() * seconds)

    def add(self, tasks: float) -> None:
        """Add tasks to what is asked for."""
        with self._changed:
            self._tasks += tasks
            self._changed.notify()

    def take(self, most: int, patience: float) -> int:
        """Take at most so many whole tasks; wait so long for the first one."""
        with self._changed:
            self._changed.wait_for(lambda: self._tasks >= 1, patience)
            taken = min(most, int(self._tasks))
            self._tasks -= taken
            return taken


def missing(target_depth: int, enqueued: int, started: int, most: int) -> int:
    """Return how many tasks bring the queue to its depth, at most `most` at once."""
    return max(0, min(most, target_depth - max(0, enqueued - started)))
