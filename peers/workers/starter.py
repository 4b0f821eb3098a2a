"""Starting workers, and waiting where that is impossible at the moment."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import time
from collections.abc import Callable, Sequence
from typing import Final

from peers import events
from peers.db import Backoff
from peers.workers.missing import Purpose
from peers.workers.orphans import OrphanKiller
from peers.workers.worker import Worker

_SHORTEST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 30.0


class Starter:
    """Adds processes to the workers, and has the selector listen to them.

    `make` starts the process of a slot. `on_words` and `on_death` are called from the selector.
    """

    def __init__(
        self,
        make: Callable[[int, Purpose], Worker],
        selector: selectors.BaseSelector,
        workers: list[Worker],
        orphans: OrphanKiller,
        on_words: Callable[[Worker], None],
        on_death: Callable[[Worker], None],
    ) -> None:
        self.start_at = 0.0
        """Not before this time (monotonic) is it worth starting another."""
        self._make = make
        self._selector = selector
        self._workers = workers
        self._orphans = orphans
        self._on_words = on_words
        self._on_death = on_death
        self._backoff = Backoff(base=_SHORTEST_WAIT, cap=_LONGEST_WAIT)

    def start(self, missing: Sequence[Purpose], now: float) -> None:
        """Start these; where the machine has no room for one, try again later."""
        if now < self.start_at:
            return
        for purpose in missing:
            try:
                self.spawn(purpose)
            except OSError as error:  # no descriptor, no memory, EAGAIN of fork
                self.back_off(f"{type(error).__name__}: {error}")
                return

    def spawn(self, purpose: Purpose = None) -> Worker:
        """Start one now. Raises `OSError`, and leaves nothing behind."""
        taken = {worker.slot for worker in self._workers}
        slot = next(number for number in itertools.count() if number not in taken)
        self._orphans.ensure()
        worker = self._make(slot, purpose)
        self._orphans.began(worker.process.pid)
        read = selectors.EVENT_READ
        try:
            self._selector.register(worker.process, read, lambda: self._on_words(worker))
            self._selector.register(worker.process.pidfd, read, lambda: self._on_death(worker))
        except OSError:
            self.forget(worker)
            worker.process.kill()
            worker.process.reap()
            self._orphans.ended(worker.process.pid)
            raise
        self._workers.append(worker)
        return worker

    def forget(self, worker: Worker) -> None:
        """Listen to it no more."""
        for registered in (worker.process, worker.process.pidfd):
            with contextlib.suppress(KeyError):
                self._selector.unregister(registered)

    def back_off(self, error: str) -> None:
        """Log that one could not start, and wait."""
        events.worker_broken(error=error, retry_in=self.wait())

    def wait(self) -> float:
        """Wait longer than the last time; return for how many seconds."""
        seconds = self._backoff.next()
        self.start_at = time.monotonic() + seconds
        return seconds

    def worked(self) -> None:
        """Begin with a short wait after the next failure: one has started."""
        self._backoff.reset()
