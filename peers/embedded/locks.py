"""Wait for a lock, for a limited time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.embedded import watchdog
from peers.embedded.errors import EmbeddedError

# Longer than a healthy process holds a lock: for initdb, a start or a slow stop.
LOCK_SECONDS = 300.0


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock exclusively, and yield its descriptor, which a program may inherit.

    The lock is held until all copies of the descriptor are closed.

    Raises EmbeddedError if the file cannot be locked in time.
    """
    descriptor = _lock_in_time(path)
    try:
        yield descriptor
    finally:
        os.close(
            descriptor
        )  # not LOCK_UN, which would also unlock it for programs that inherited it


def _lock_in_time(path: Path) -> int:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return watchdog.open_lock(str(path), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise EmbeddedError(
                    f"Another process has held {path} for more than {LOCK_SECONDS:g} s. "
                    f"See which one with `fuser {path}` and end it."
                ) from None
            time.sleep(watchdog.POLL_SECONDS)
        except OSError as error:
            raise EmbeddedError(
                f"{path} cannot be locked: {error.strerror}. Run the command as the owner of the "
                "folder, or name a folder of your own in PEERS_EMBEDDED_DATA."
            ) from error
