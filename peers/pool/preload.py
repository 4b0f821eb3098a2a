"""Fork workers from a process that has imported the app, if that is possible.

There is one fork server for each environment that a worker can have. All workers have the same one,
unless they have GPUs of their own. A fork server that dies or does not reply is replaced after a
while, when a worker is needed. Until then, and where a fork would not work, workers import the app
themselves.
"""

from __future__ import annotations

import selectors
import time
from typing import Final, Protocol

from peers import events
from peers.database.backoff import Backoff
from peers.pool.environment import Environment
from peers.pool.fork_server import ForkServer, WorkerRequest
from peers.pool.isolation import WorkerRole
from peers.pool.orphans import OrphanKiller
from peers.pool.process import WorkerProcess, adopt_orphans
from peers.protocol.messages import ImportFailed

_SHORTEST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0


class PreloadListener(Protocol):
    """Reacts to forked workers. Its methods are called from the selector or from `watch`."""

    def forked(self, request: WorkerRequest, process: WorkerProcess) -> None:
        """Take over a worker that was requested."""

    def not_forked(self, error: str) -> None:
        """Note that the system refuses another process at the moment."""

    def import_failed(self, message: ImportFailed) -> None:
        """Note that the app cannot be imported."""

    def importer_died(self) -> None:
        """Note that a fork server died while it imported the app."""


class Preload:
    """The fork servers of a peer. `enabled`: False when workers import the app themselves."""

    def __init__(
        self, app: str, log: tuple[str, str], environment: Environment,
        selector: selectors.BaseSelector, orphans: OrphanKiller, listener: PreloadListener, *,
        enabled: bool,
    ) -> None:  # fmt: skip
        self.enabled = enabled
        self._app = app
        self._log = log
        self._environment = environment
        self._selector = selector
        self._orphans = orphans
        self._listener = listener
        self._servers: dict[str | None, ForkServer] = {}
        """By the GPU of their workers."""
        self._start_at = 0.0
        self._backoff = Backoff(base=_SHORTEST_WAIT, cap=_LONGEST_WAIT)

    @property
    def requests(self) -> list[WorkerRequest]:
        """Return the requests for workers that do not exist yet."""
        return [request for server in self._servers.values() for request in server.requests]

    def request(self, slot: int, role: WorkerRole) -> bool:
        """Request a worker; return False if it has to be started otherwise. Raises `OSError`."""
        if not self.enabled:
            return False
        gpu = self._environment.gpu(slot)
        if gpu not in self._servers:
            if time.monotonic() < self._start_at:
                return False
            environment = self._environment.of_slot(slot)
            server = ForkServer(self._app, self._log, environment, self._selector, self)
            self._orphans.began(server.pid)
            self._servers[gpu] = server
        self._servers[gpu].request(slot, role)
        self._servers[gpu].send_requests()
        return True

    def watch(self, now: float) -> None:
        """Give up the servers that have taken too long."""
        for server in list(self._servers.values()):
            server.watch(now)

    def next_deadline(self) -> float:
        """Return when (monotonic) to `watch` again at the latest."""
        return min((s.next_deadline() for s in self._servers.values()), default=float("inf"))

    def close(self) -> None:
        """End all fork servers."""
        for server in list(self._servers.values()):
            self._close(server)

    # ----------------------------------------------------------------- what fork servers report

    def forked(self, request: WorkerRequest, process: WorkerProcess) -> None:
        """Pass on a new worker."""
        self._backoff.reset()
        self._update_subreaper()
        self._listener.forked(request, process)

    def not_forked(self, error: str) -> None:
        """Pass on that the system refuses another process."""
        self._update_subreaper()
        self._listener.not_forked(error)

    def import_failed(self, server: ForkServer, message: ImportFailed) -> None:
        """Pass on that the app cannot be imported; the next fork server tries again."""
        self._close(server)
        self._listener.import_failed(message)

    def unforkable(self, server: ForkServer, reason: str) -> None:
        """Let workers import the app for the rest of this peer's life: a fork would not work."""
        if self.enabled:
            events.app_not_preloaded(reason=reason)
        self.enabled = False
        try:
            request, process = server.become_worker()
        except OSError:  # no descriptor is free: another worker is started later
            self._close(server)
            return
        self._forget(server)
        self._listener.forked(request, process)

    def lost(self, server: ForkServer, reason: str) -> None:
        """Replace a server that is dead or does not reply, after a while."""
        seconds = self._backoff.next()
        self._start_at = time.monotonic() + seconds
        events.fork_server_lost(server_pid=server.pid, reason=reason, retry_in=seconds)
        was_ready = server.ready
        self._close(server)
        if not was_ready:
            self._listener.importer_died()

    def _close(self, server: ForkServer) -> None:
        server.close()
        self._orphans.ended(server.pid)
        self._forget(server)

    def _forget(self, server: ForkServer) -> None:
        self._servers = {gpu: one for gpu, one in self._servers.items() if one is not server}
        self._update_subreaper()

    def _update_subreaper(self) -> None:
        adopt_orphans(any(server.is_forking for server in self._servers.values()))
