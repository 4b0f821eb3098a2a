"""Which workers are forked from a process that has imported the app, and from which one.

There is one fork server for each environment that a worker can have: all have the same one unless
they have GPUs of their own. One that dies or does not answer is replaced when a worker is needed,
after a while; until then workers import the app themselves, as they do when a fork would not work.
"""

from __future__ import annotations

import selectors
import time
from typing import Final, Protocol

from peers import events
from peers.database.backoff import Backoff
from peers.pool.environment import Environment
from peers.pool.fork_server import Asked, ForkServer, adopt_orphans
from peers.pool.missing import Purpose
from peers.pool.orphans import OrphanKiller
from peers.pool.process import WorkerProcess
from peers.protocol.messages import Broken

_SHORTEST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0


class Owner(Protocol):
    """Who is told of workers, from the selector or from `watch`."""

    def forked(self, asked: Asked, process: WorkerProcess) -> None:
        """Take over a worker that was asked for."""

    def not_forked(self, error: str) -> None:
        """There is no room for another process at the moment."""

    def broken(self, message: Broken) -> None:
        """The app cannot be imported."""

    def importer_died(self) -> None:
        """A fork server died while it imported the app."""


class Preload:
    """The fork servers of a peer. `enabled`: False when workers import the app themselves."""

    def __init__(
        self, app: str, log: tuple[str, str], environment: Environment,
        selector: selectors.BaseSelector, orphans: OrphanKiller, owner: Owner, *, enabled: bool,
    ) -> None:  # fmt: skip
        self.enabled = enabled
        self._app = app
        self._log = log
        self._environment = environment
        self._selector = selector
        self._orphans = orphans
        self._owner = owner
        self._servers: dict[str | None, ForkServer] = {}
        """By the GPU that their workers have."""
        self._again_at = 0.0
        self._backoff = Backoff(base=_SHORTEST_WAIT, cap=_LONGEST_WAIT)

    @property
    def asked(self) -> list[Asked]:
        """The workers that were asked for and are not there yet."""
        return [asked for server in self._servers.values() for asked in server.asked]

    def ask(self, slot: int, purpose: Purpose) -> bool:
        """Ask for a worker; False: it has to be started otherwise. Raises `OSError`."""
        if not self.enabled:
            return False
        gpu = self._environment.gpu(slot)
        if gpu not in self._servers:
            if time.monotonic() < self._again_at:
                return False
            environment = self._environment.of_slot(slot)
            server = ForkServer(self._app, self._log, environment, self._selector, self)
            self._orphans.began(server.pid)
            self._servers[gpu] = server
        self._servers[gpu].ask(slot, purpose)
        self._servers[gpu].send()
        return True

    def watch(self, now: float) -> None:
        """Give up the servers that have taken too long."""
        for server in list(self._servers.values()):
            server.watch(now)

    def next_deadline(self) -> float:
        """When to `watch` again at the latest."""
        return min((s.next_deadline() for s in self._servers.values()), default=float("inf"))

    def close(self) -> None:
        """End them all."""
        for server in list(self._servers.values()):
            self._close(server)

    # -------------------------------------------------------------------- what fork servers tell

    def forked(self, asked: Asked, process: WorkerProcess) -> None:
        """A worker is there."""
        self._backoff.reset()
        self._rest()
        self._owner.forked(asked, process)

    def not_forked(self, error: str) -> None:
        """The system has no room for a worker."""
        self._rest()
        self._owner.not_forked(error)

    def broken(self, server: ForkServer, message: Broken) -> None:
        """The app cannot be imported: the next one that is asked for tries again."""
        self._close(server)
        self._owner.broken(message)

    def unforkable(self, server: ForkServer, reason: str) -> None:
        """A fork would not work as the app is: that does not change in the life of this peer."""
        if self.enabled:
            events.app_not_preloaded(reason=reason)
        self.enabled = False
        try:
            asked, process = server.become_worker()
        except OSError:  # no room for it: another is started later
            self._close(server)
            return
        self._forget(server)
        self._owner.forked(asked, process)

    def lost(self, server: ForkServer, reason: str) -> None:
        """One is dead, or as good as dead."""
        seconds = self._backoff.next()
        self._again_at = time.monotonic() + seconds
        events.fork_server_lost(server_pid=server.pid, reason=reason, retry_in=seconds)
        was_ready = server.ready
        self._close(server)
        if not was_ready:
            self._owner.importer_died()

    def _close(self, server: ForkServer) -> None:
        server.close()
        self._orphans.ended(server.pid)
        self._forget(server)

    def _forget(self, server: ForkServer) -> None:
        self._servers = {gpu: one for gpu, one in self._servers.items() if one is not server}
        self._rest()

    def _rest(self) -> None:
        adopt_orphans(any(server.is_forking for server in self._servers.values()))
