"""Starting workers, and waiting where that is impossible at the moment."""

from __future__ import annotations

import contextlib
import itertools
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from peers import events
from peers.database.backoff import Backoff
from peers.pool.environment import Environment
from peers.pool.fork_server import Asked
from peers.pool.handle import WorkerHandle
from peers.pool.missing import Purpose
from peers.pool.orphans import OrphanKiller
from peers.pool.preload import Preload
from peers.pool.process import WorkerProcess
from peers.protocol.messages import Broken

_SHORTEST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What to call from the selector."""

    on_words: Callable[[WorkerHandle], None]
    on_death: Callable[[WorkerHandle], None]
    on_broken: Callable[[Broken], None]


class Starter:
    """Adds processes to the workers, and has the selector listen to them."""

    def __init__(
        self,
        app: str,
        log: tuple[str, str],
        environment: Environment,
        selector: selectors.BaseSelector,
        workers: list[WorkerHandle],
        orphans: OrphanKiller,
        hooks: Hooks,
        *,
        preload: bool,
    ) -> None:
        self.start_at = 0.0
        """Not before this time (monotonic) is it worth starting another."""
        self.died_importing = False
        """Whether a process has died while it imported the app."""
        self._app = app
        self._log = log
        self._environment = environment
        self._selector = selector
        self._workers = workers
        self._orphans = orphans
        self._hooks = hooks
        self._backoff = Backoff(base=_SHORTEST_WAIT, cap=_LONGEST_WAIT)
        self._preload = Preload(app, log, environment, selector, orphans, self, enabled=preload)

    @property
    def asked(self) -> list[Purpose]:
        """What the workers are for that were asked for and are not there yet."""
        return [asked.purpose for asked in self._preload.asked]

    def start(self, missing: Sequence[Purpose], now: float) -> None:
        """Start these; where the machine has no room for one, try again later."""
        self._preload.watch(now)
        if now < self.start_at:
            return
        for purpose in missing:
            try:
                self.spawn(purpose)
            except OSError as error:  # no descriptor, no memory, EAGAIN of fork
                self.back_off(f"{type(error).__name__}: {error}")
                return

    def spawn(self, purpose: Purpose = None) -> None:
        """Start one now, or ask for it. Raises `OSError`, and leaves nothing behind."""
        taken = {worker.slot for worker in self._workers}
        taken.update(asked.slot for asked in self._preload.asked)
        slot = next(number for number in itertools.count() if number not in taken)
        self._orphans.ensure()
        if not self._preload.ask(slot, purpose):
            environment = self._environment.of_slot(slot)
            process = WorkerProcess.start(self._app, self._log, environment)
            self._take_in(WorkerHandle(process, slot, purpose))

    def next_deadline(self) -> float:
        """When to call `start` at the latest, even if none is missing."""
        return self._preload.next_deadline()

    def close(self) -> None:
        """Start none any more."""
        self._preload.close()

    def _take_in(self, worker: WorkerHandle) -> None:
        self._orphans.began(worker.process.pid)
        read = selectors.EVENT_READ
        on_words, on_death = self._hooks.on_words, self._hooks.on_death
        try:
            self._selector.register(worker.process, read, lambda: on_words(worker))
            self._selector.register(worker.process.pidfd, read, lambda: on_death(worker))
        except OSError:
            self.forget(worker)
            worker.process.kill()
            worker.process.reap()
            self._orphans.ended(worker.process.pid)
            raise
        self._workers.append(worker)

    # ------------------------------------------------------------------- what fork servers tell

    def forked(self, asked: Asked, process: WorkerProcess) -> None:
        """A worker is there."""
        try:
            self._take_in(WorkerHandle(process, asked.slot, asked.purpose))
        except OSError as error:
            self.not_forked(str(error))

    def not_forked(self, error: str) -> None:
        """The system has no room for one."""
        self.back_off(error)

    def broken(self, message: Broken) -> None:
        """The app cannot be imported."""
        self._hooks.on_broken(message)

    def importer_died(self) -> None:
        """A fork server died while it imported the app."""
        self.died_importing = True

    def forget(self, worker: WorkerHandle) -> None:
        """Listen to it no more."""
        for registered in (worker.process, worker.process.pidfd):
            with contextlib.suppress(KeyError):
                self._selector.unregister(registered)

    def back_off(self, error: str) -> None:
        """Log that one could not start, and wait."""
        events.worker_start_failed(error=error, retry_in=self.wait())

    def wait(self) -> float:
        """Wait longer than the last time; return for how many seconds."""
        seconds = self._backoff.next()
        self.start_at = time.monotonic() + seconds
        return seconds

    def worked(self) -> None:
        """Begin with a short wait after the next failure: one has started."""
        self._backoff.reset()
