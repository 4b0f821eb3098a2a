"""Note whether a handler keeps to what it has promised with `kill_after`."""

from __future__ import annotations

import time


class KillLimit:
    """The time at which a peer would kill the handler. Nothing kills it in a test."""

    def __init__(self) -> None:
        self._kill_at: float | None = None
        self._overran = False

    @property
    def overran(self) -> bool:
        """Return whether the handler ran longer than its last `kill_after` allowed."""
        self._note()
        return self._overran

    def limit(self, _execution_id: int, seconds: float | None) -> None:
        """Note until when the handler must call `kill_after` again."""
        self._note()
        self._kill_at = None if seconds is None else time.monotonic() + seconds

    def _note(self) -> None:
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._overran = True
