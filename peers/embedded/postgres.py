"""Use the embedded Postgres: start, stop, restart, find its URL."""

import fcntl
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from peers.embedded import cluster, server, watchdog
from peers.embedded.errors import EmbeddedError
from peers.embedded.locks import locked
from peers.embedded.places import Area, default_area, temporary_folder

RESTART_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedPostgres:
    """One process's use of a private Postgres.

    All uses of the same data folder share one server, also from several processes. It starts with
    the first use and stops when the last one is closed or its process has ended. After a fork, a
    use lasts until both parent and child have closed it or ended.

    Args:
        data: the folder for all files of this server (default: PEERS_EMBEDDED_DATA, or a folder in
            the user's home, or for root /var/lib/peers/embedded).
        version: a major version such as "16" (default: the data directory's, or the first found).
        durable: False is faster, for tests: data survive a crash of the server, not of the machine.
        settings: server settings by name. They and `durable` have an effect only if this use starts
            the server.

    Every method may raise EmbeddedError.

    """

    def __init__(
        self,
        data: Path | None = None,
        *,
        version: str | None = None,
        durable: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._area = Area(data) if data is not None else default_area()
        reserved = sorted(self._area.fixed_settings().keys() & (settings or {}).keys())
        if reserved:
            raise EmbeddedError(
                f"The embedded Postgres sets {', '.join(reserved)} itself: "
                "leave it out of `settings`."
            )
        self._version = version
        self._durable = durable
        self._settings = {**({} if durable else server.NOT_DURABLE), **(settings or {})}
        self._use: int | None = None
        self._server_version: str | None = None

    def start(self) -> str:
        """Start the server if it does not run, and return the URL of its database `peers`.

        Call this again to restart a server that has crashed or was stopped.
        """
        self._area.create()
        with locked(self._area.gate):
            newly = self._use is None
            if self._use is None:
                self._use = watchdog.open_lock(self._area.guarded.users, fcntl.LOCK_SH)
            try:
                self._bring_up()
            except BaseException:
                if newly:
                    self.close()
                raise
        return self.url()

    def close(self) -> None:
        """End this use. If it was the last, the server stops in the background."""
        if self._use is not None:
            os.close(self._use)  # never LOCK_UN, which would take the lock from a forked child too
            self._use = None

    def stop(self) -> bool:
        """Stop the server for all its users, wait for its end, return whether it was running."""
        if not os.access(self._area.root, os.F_OK):
            return False
        with locked(self._area.gate):
            was_running = watchdog.is_running(self._area.guarded)
            server.stop(self._area)
        return was_running

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Restart the server with the same socket and data. "immediate" simulates a crash."""
        if self._use is None:
            raise EmbeddedError("Only a started server can be restarted: call start() first.")
        with locked(self._area.gate):
            server.stop(self._area, RESTART_SIGNALS[mode])
            self._bring_up()

    def _bring_up(self) -> None:
        cluster.create(self._area, self._version, durable=self._durable)
        server.guard(self._area)
        self._server_version = server.bring_up(self._area, self._version, self._settings)

    def url(self, database: str = "peers") -> str:
        """Return the libpq URL of a database, whether the server runs or not."""
        return self._area.url(database)

    @property
    def data(self) -> Path:
        """The folder of all files of this server."""
        return self._area.root

    @property
    def sockets(self) -> Path:
        """The folder of the Unix socket."""
        return self._area.sockets

    @property
    def log(self) -> Path:
        """The server's log since its last start. The log before it is `server.log.old`."""
        return self._area.log

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, or None if it does not run."""
        return watchdog.postmaster(self._area.guarded)

    @property
    def server_version(self) -> str:
        """The version of the running server, such as 18.4."""
        if self._server_version is None:
            raise EmbeddedError("Only a started server has a version: call start() first.")
        return self._server_version

    @cached_property
    def bin(self) -> Path:
        """The folder of the Postgres programs (postgres, initdb, mostly psql and pg_dump too)."""
        return cluster.installation(self._area, self._version).bin

    def psql(self) -> Path | None:
        """Find a psql: beside the server's programs, or on PATH."""
        beside = self.bin / "psql"
        if os.access(beside, os.X_OK):
            return beside
        elsewhere = shutil.which("psql")
        return Path(elsewhere) if elsewhere else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def throwaway(
    *, version: str | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[EmbeddedPostgres]:
    """Start a server in a temporary folder, and remove both at the end."""
    folder = temporary_folder()
    postgres = EmbeddedPostgres(folder, version=version, durable=False, settings=settings)
    try:
        postgres.start()
        yield postgres
    finally:
        postgres.stop()
        postgres.close()
        for place in (postgres.sockets, folder):  # the first may lie elsewhere
            shutil.rmtree(place, ignore_errors=True)
