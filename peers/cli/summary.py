"""Log once a minute how many tasks a peer has run.

One line for each task would be thousands of lines a second.
"""

from __future__ import annotations

import threading
import time
from typing import Final, Self

from peers import events

EVERY_SECONDS: Final = 60.0


class Summary:
    """Log `tasks_ended` during the block and at its end, unless nothing has ended."""

    def __init__(self, every: float = EVERY_SECONDS) -> None:
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="summary", daemon=True)
        self._since = time.monotonic()
        self._seen = _ended()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._say()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self._say()

    def _say(self) -> None:
        now = time.monotonic()
        seen = _ended()
        completed, failed = (new - old for new, old in zip(seen, self._seen, strict=True))
        if completed or failed:
            events.tasks_ended(completed=completed, failed=failed, seconds=now - self._since)
        self._seen, self._since = seen, now


def _ended() -> tuple[int, int]:
    return events.counts["task_completed"], events.counts["task_failed"]
