"""Memory: the most that all processes which began after a moment had together."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_EVERY_SECONDS: Final = 0.2


class Footprint:
    """Looks now and then, from entry to exit. Shared pages are divided among who shares them.

    `others`: processes that do not count, as `running()` gave them; nor does this one.
    """

    def __init__(self, others: frozenset[int]) -> None:
        self._others = others | {os.getpid()}
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    @property
    def mib(self) -> int:
        """The peak so far, in MiB."""
        return self._most >> 10

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            mine = running() - self._others
            self._most = max(self._most, sum(map(_kilobytes, mine)))


def running() -> frozenset[int]:
    """All processes there are."""
    return frozenset(int(folder.name) for folder in Path("/proc").glob("[0-9]*"))


def _kilobytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
