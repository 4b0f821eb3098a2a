"""Run a command on a terminal (a pseudo-terminal), type keys, and read what it has drawn."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any, Self

from tests.support.cli import PATIENCE, command, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """A command that draws whole screens, each from the top left corner, on a terminal."""

    def __init__(
        self,
        *words: str,
        url: str,
        columns: int = 80,
        lines: int = 24,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._own, theirs = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.raw = ""
        self.process = subprocess.Popen(
            command(*words), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env=environment(url, {"TERM": "xterm-256color", **(env or {})}),
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._own)
        os.close(self._theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self._own, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Type keys."""
        os.write(self._own, keys.encode())

    @property
    def drawn(self) -> list[str]:
        """The lines of the newest screen, without styles."""
        frame = self.raw.rpartition("\x1b[H")[2].partition("\x1b[J")[0]
        return _CONTROL.sub("", frame).replace("\r", "").split("\n")

    @property
    def text(self) -> str:
        """The newest screen as one text, without line breaks."""
        return " ".join(line.strip() for line in self.drawn)

    def until(self, true: Callable[[Self], Any], what: str) -> None:
        """Read what is drawn until it is true of a whole screen."""
        deadline = time.monotonic() + PATIENCE
        while not (self.raw.endswith("\x1b[J") and true(self)):
            left = deadline - time.monotonic()
            assert left > 0, f"still not so: {what}\n" + "\n".join(self.drawn)
            self._read(left)

    def end(self) -> int:
        """Read to the end of the command, and return its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "the command does not end\n" + self.raw[-2000:]
            self._read(0.05)
        while self._read(0):
            pass
        return self.process.returncode

    @property
    def is_restored(self) -> bool:
        """Whether the terminal is as it was: its modes, the main screen and the cursor."""
        after = self.raw.rpartition("\x1b[H")[2]
        shows = "\x1b[?25h" in after and "\x1b[?1049l" in after
        return shows and termios.tcgetattr(self._theirs) == self.modes

    def _read(self, within: float) -> bool:
        ready, _, _ = select.select([self._own], [], [], within)
        if ready:
            self.raw += os.read(self._own, 65536).decode(errors="replace")
        return bool(ready)
