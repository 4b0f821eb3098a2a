"""Measure how long a call takes by itself, however busy the machine is."""

from __future__ import annotations

import time
from typing import Final

_SCHEDSTAT: Final = "/proc/thread-self/schedstat"
"""Two nanosecond counts of this thread: time on a core, and time waiting for one."""
_NANO: Final = 1e-9


def seconds() -> float:
    """Return a time that stands still while this thread waits for a core.

    Other processes must not make a model look slow. Its batches and chunks would become small, and
    the fixed cost of each would slow the run down even more.
    """
    return time.perf_counter() - _waiting()


def _waiting() -> float:
    try:
        with open(_SCHEDSTAT, encoding="ascii") as file:
            return int(file.read().split()[1]) * _NANO
    except (OSError, ValueError, IndexError):
        return 0.0  # a kernel without these figures
