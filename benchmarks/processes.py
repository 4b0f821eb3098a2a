"""Start and stop the processes of a measured system."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

GRACE: Final = 15.0
"""Seconds that a process has to end after SIGTERM."""
_LOG_TAIL: Final = 1500


class Processes:
    """Processes of one command, each the leader of a session. None outlives the `with` block."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], count: int, log: Path
    ) -> None:
        self._command, self._count, self._log = command, count, log
        self._environment = {**os.environ, **environment}
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> list[int]:
        """The process ids of the leaders."""
        return [process.pid for process in self._started]

    def check(self) -> None:
        """Raise an error if one of them has ended."""
        for process in self._started:
            if process.poll() is not None:
                tail = self._log.read_text(errors="replace")[-_LOG_TAIL:]
                raise RuntimeError(
                    f"{' '.join(self._command)} ended with {process.returncode}: {tail}"
                )

    def stop(self) -> None:
        """Send SIGTERM to the leaders, and SIGKILL to every process that does not end."""
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + GRACE
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, give_up - time.monotonic()))
            _kill_group(process.pid)
            process.wait()
        self._started = []

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            for _ in range(self._count):
                self._started.append(
                    subprocess.Popen(
                        self._command, env=self._environment, stdin=subprocess.DEVNULL,
                        stdout=log, stderr=log, start_new_session=True,
                    )
                )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(leader, signal.SIGKILL)
