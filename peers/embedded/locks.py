"""Wait for a lock, but not for ever."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peers.embedded import watchdog
from peers.embedded.errors import EmbeddedError

# Longer than anybody who is well holds one: initdb, a start or the harshest stop on a slow machine.
LOCK_SECONDS = 300.0


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock exclusively; gives its descriptor, and a program that inherits that keeps it.

    Raises EmbeddedError if the file cannot be locked, or not in time.
    """
    descriptor = _lock_in_time(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # never LOCK_UN, which would take it from those who inherited it


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
                f"{path} cannot be locked: {error.strerror}. Run the command as the user whom the "
                "folder belongs to, or name a folder of your own."
            ) from error
