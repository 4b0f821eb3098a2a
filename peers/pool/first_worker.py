"""Start the first worker of a peer and wait until it has imported the app."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Sequence

from peers.errors import ConfigError, PeersError
from peers.pool.handle import WorkerHandle
from peers.pool.starter import Starter


def start_first_worker(
    app: str, starter: Starter, workers: Sequence[WorkerHandle], selector: selectors.BaseSelector,
    import_timeout: float, stopped: Callable[[], bool],
) -> bool:  # fmt: skip
    """Start a worker and wait until it is ready; return False when `stopped` before that.

    Raises `ConfigError` when importing the app takes longer than `import_timeout`, or ends the
    process, and `PeersError` when the system refuses another process.
    """
    deadline = time.monotonic() + import_timeout
    while not any(worker.ready for worker in workers):
        if stopped():
            return False
        if not workers and not starter.requested:
            _start(app, starter)
        if time.monotonic() > deadline:
            raise ConfigError(f"importing the app {app!r} took longer than {import_timeout:g} s")
        for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
            key.data()
    return True


def _start(app: str, starter: Starter) -> None:
    """Start a worker; a second time when it has turned out that it cannot be forked."""
    if starter.died_importing:
        raise ConfigError(f"the worker that imported the app {app!r} died")
    try:
        starter.start_one()
    except OSError as error:
        raise PeersError(
            f"a worker cannot start: {error}",
            "Free memory, processes or descriptors on this machine, or raise the account's limits.",
        ) from error
