"""A module that kills the process which imports it."""

import os
import signal

os.kill(os.getpid(), signal.SIGKILL)


def predict(rows: list[object]) -> list[object]:
    """Never called."""
    return rows
