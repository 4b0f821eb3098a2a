"""Use the whole terminal: keys one by one, resizing, and the terminal as it was at the end."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from types import FrameType
    from typing import Self

_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""The alternate screen, without a cursor."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_CHUNK: Final = 1024
_ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)
_SIGNALLED: Final = 128


def is_usable() -> bool:
    """Return whether stdin and stdout are a terminal that can move its cursor."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


class Terminal:
    """The terminal during the block. Any thread may `wake` the one that waits for events."""

    def __init__(self) -> None:
        self._input = sys.stdin.fileno()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._modes: list[Any] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._modes = termios.tcgetattr(self._input)
        self._handlers = {
            signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda *_: self.wake()),
            signal.SIGTSTP: signal.signal(signal.SIGTSTP, self._suspend),
            **{number: signal.signal(number, _end) for number in _ENDINGS},
        }
        self._enter()
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        with suppress(termios.error, OSError):  # the terminal may be gone
            self._leave()
        wake, self._wake = self._wake, -1  # a thread may still call `wake`
        os.close(wake)
        os.close(self._woken)

    def wake(self) -> None:
        """Make `typed` return."""
        with suppress(OSError):  # it is awake already, or the block has ended
            os.write(self._wake, b".")

    def typed(self) -> str:
        """Wait for keys, a new size or `wake`; return the keys, if any."""
        ready, _, _ = select.select([self._input, self._woken], [], [])
        if self._woken in ready:
            os.read(self._woken, _CHUNK)
        if self._input not in ready:
            return ""
        typed = os.read(self._input, _CHUNK)
        if not typed:  # the terminal is gone
            raise SystemExit(_SIGNALLED + signal.SIGHUP)
        return typed.decode(errors="replace")

    def draw(self, text: str) -> None:
        """Replace the screen by lines that fit it."""
        lines = text.split("\n")
        whole = "\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J"
        sys.stdout.write(whole)
        sys.stdout.flush()

    def size(self) -> os.terminal_size:
        """Return columns and lines."""
        found = os.get_terminal_size(sys.stdout.fileno())
        return found if found.columns and found.lines else os.terminal_size((80, 24))

    def _enter(self) -> None:
        tty.setcbreak(self._input)
        sys.stdout.write(_ENTER)
        sys.stdout.flush()

    def _leave(self) -> None:
        termios.tcsetattr(self._input, termios.TCSADRAIN, self._modes)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        """Give the terminal back to the shell until the process is continued (Ctrl-Z, fg)."""
        self._leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._enter()
        self.wake()


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(_SIGNALLED + number)
