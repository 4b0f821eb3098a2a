"""Start workers, and back off when that is impossible at the moment."""

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
from peers.pool.fork_server import WorkerRequest
from peers.pool.handle import WorkerHandle
from peers.pool.isolation import WorkerRole
from peers.pool.orphans import OrphanKiller
from peers.pool.preload import Preload
from peers.pool.process import WorkerProcess
from peers.protocol.messages import ImportFailed

_SHORTEST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 30.0


@dataclass(frozen=True, slots=True)
class WorkerCallbacks:
    """What the selector calls for a worker."""

    on_message: Callable[[WorkerHandle], None]
    on_exit: Callable[[WorkerHandle], None]
    on_import_failed: Callable[[ImportFailed], None]


class Starter:
    """Adds new processes to `workers`, and registers them with the selector."""

    def __init__(
        self,
        app: str,
        log: tuple[str, str],
        environment: Environment,
        selector: selectors.BaseSelector,
        workers: list[WorkerHandle],
        orphans: OrphanKiller,
        callbacks: WorkerCallbacks,
        *,
        preload: bool,
    ) -> None:
        self.start_at = 0.0
        """When (monotonic) to try the next start."""
        self.died_importing = False
        """Whether a process has died while it imported the app."""
        self._app = app
        self._log = log
        self._environment = environment
        self._selector = selector
        self._workers = workers
        self._orphans = orphans
        self._callbacks = callbacks
        self._backoff = Backoff(base=_SHORTEST_WAIT, cap=_LONGEST_WAIT)
        self._preload = Preload(app, log, environment, selector, orphans, self, enabled=preload)

    @property
    def requested(self) -> list[WorkerRole]:
        """Return the roles of the workers that were requested and do not exist yet."""
        return [request.role for request in self._preload.requests]

    def start(self, roles: Sequence[WorkerRole], now: float) -> None:
        """Start workers with these roles; if the system refuses a process, try again later."""
        self._preload.watch(now)
        if now < self.start_at:
            return
        for role in roles:
            try:
                self.start_one(role)
            except OSError as error:  # no descriptor, no memory, EAGAIN of fork
                self.back_off(f"{type(error).__name__}: {error}")
                return

    def start_one(self, role: WorkerRole = WorkerRole.ORDINARY) -> None:
        """Start a worker now, or request it. Raises `OSError`, and leaves nothing behind."""
        taken = {worker.slot for worker in self._workers}
        taken.update(request.slot for request in self._preload.requests)
        slot = next(number for number in itertools.count() if number not in taken)
        self._orphans.ensure()
        if not self._preload.request(slot, role):
            environment = self._environment.of_slot(slot)
            process = WorkerProcess.start(self._app, self._log, environment)
            self._register(WorkerHandle(process, slot, role))

    def next_deadline(self) -> float:
        """Return when (monotonic) to call `start` at the latest, even if no worker is missing."""
        return self._preload.next_deadline()

    def close(self) -> None:
        """End the fork servers."""
        self._preload.close()

    def _register(self, worker: WorkerHandle) -> None:
        self._orphans.began(worker.process.pid)
        read = selectors.EVENT_READ
        on_message, on_exit = self._callbacks.on_message, self._callbacks.on_exit
        try:
            self._selector.register(worker.process, read, lambda: on_message(worker))
            self._selector.register(worker.process.pidfd, read, lambda: on_exit(worker))
        except OSError:
            self.unregister(worker)
            worker.process.kill()
            worker.process.reap()
            self._orphans.ended(worker.process.pid)
            raise
        self._workers.append(worker)

    def unregister(self, worker: WorkerHandle) -> None:
        """Remove a worker from the selector."""
        for registered in (worker.process, worker.process.pidfd, worker.process.output):
            with contextlib.suppress(KeyError):
                self._selector.unregister(registered)

    # ----------------------------------------------------------------- what fork servers report

    def forked(self, request: WorkerRequest, process: WorkerProcess) -> None:
        """Take over a worker that was requested."""
        try:
            self._register(WorkerHandle(process, request.slot, request.role))
        except OSError as error:
            self.not_forked(str(error))

    def not_forked(self, error: str) -> None:
        """Back off: the system refuses another process."""
        self.back_off(error)

    def import_failed(self, message: ImportFailed) -> None:
        """Report that the app cannot be imported."""
        self._callbacks.on_import_failed(message)

    def importer_died(self) -> None:
        """Note that a fork server died while it imported the app."""
        self.died_importing = True

    # -------------------------------------------------------------------------------- backing off

    def back_off(self, error: str) -> None:
        """Log that a worker could not start, and wait before the next start."""
        events.worker_start_failed(error=error, retry_in=self.wait())

    def wait(self) -> float:
        """Wait longer than the last time before the next start; return for how many seconds."""
        seconds = self._backoff.next()
        self.start_at = time.monotonic() + seconds
        return seconds

    def succeeded(self) -> None:
        """Begin with a short wait after the next failure, because a worker has started."""
        self._backoff.reset()
