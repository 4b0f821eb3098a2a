"""Run a real peer beside a test, for what only processes show: crashes, timeouts, parallel work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Final

from peers.errors import ConfigError, PeersError
from peers.spans import Span, timedelta_of
from peers.testing import active
from peers.testing.databases import Database
from peers.testing.places import connection_of

_STOP_SECONDS: Final = 60.0
_LOOK_EVERY: Final = 0.02
_LOG_LINES: Final = 20
_UNFINISHED: Final = """
    select id, kind, state::text, peers.explain(id) from peers.task
    where id in (
        select task_id from peers.ready union all select task_id from peers.ready_limited
        union all select unnest(task_ids) from peers.lease
    ) and state in ('ready', 'running')
    order by id limit 1
"""


class RealPeer:
    """A peer that runs in processes of its own."""

    def __init__(
        self, database: Database, process: subprocess.Popen[bytes], log: IO[bytes]
    ) -> None:
        self.process = process
        self._database = database
        self._log = log

    @property
    def log(self) -> str:
        """Return what the peer has logged so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def wait_until_idle(self, timeout: Span = 30) -> None:
        """Wait until no task is ready or running.

        Raises TimeoutError, which says why a task has not ended, and PeersError if the peer ends.
        """
        deadline = time.monotonic() + timedelta_of(timeout).total_seconds()
        with connection_of(self._database) as connection:
            while (found := connection.execute(_UNFINISHED.encode()).fetchone()) is not None:
                if self.process.poll() is not None:
                    raise PeersError(f"the peer has ended:\n{self._last_lines()}")
                if time.monotonic() > deadline:
                    task_id, kind, state, why = found
                    raise TimeoutError(f"task {task_id}, {kind}, is still {state}: {why}")
                time.sleep(_LOOK_EVERY)

    def stop(self) -> None:
        """Stop the peer as systemd does. Raises PeersError if it does not end well."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if code != 0:
            raise PeersError(f"the peer has ended with exit code {code}:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\n".join(self.log.splitlines()[-_LOG_LINES:])


@contextmanager
def running_peer(
    app: str,
    database: Database | None = None,
    *,
    queues: Mapping[str, int] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[RealPeer]:
    """Run `peers run --app APP` for a `with` block, and stop it at the end.

    database: the default is that of the fixture `peers_database`. queues: slots by name. settings:
    such as {"PEERS_DRAIN_TIMEOUT": "1s"}. The modules of `app` must be importable from the current
    folder or by PYTHONPATH.
    """
    found = database or active.database()
    if found is None:
        raise ConfigError("no test database is known", "Use the fixture peers_database.")
    command = [sys.executable, "-m", "peers", "run", "--app", app]
    if queues is not None:
        command += ["--queues", ",".join(f"{name}={slots}" for name, slots in queues.items())]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=_environment(found, settings or {}), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        peer = RealPeer(found, process, log)
        try:
            yield peer
        except BaseException:
            process.kill()
            process.wait()
            raise
        peer.stop()


def _environment(database: Database, settings: Mapping[str, str]) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))  # noqa: PTH109
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PEERS_DATABASE_URL": database.url,
        "PEERS_EMBEDDED": "off",
        **settings,
    }
