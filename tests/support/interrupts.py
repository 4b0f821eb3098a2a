"""Interrupt code as Ctrl-C does, at each moment in turn, on a machine of any speed."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

import peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_PLACES: Final = tuple(str(Path(str(module.__file__)).parent) for module in (peers, psycopg))
_MOMENTS: Final = ("call", "c_return")
"""Python handles a signal when a function begins, and when a call of a C function has returned."""

_LEAST_MOMENTS: Final = 30


class Interrupts:
    """Raises KeyboardInterrupt once, at one of the moments when Python handles signals.

    at: how many moments pass before, in the code of Peers and psycopg. `line` says where it was;
    None means that the code had fewer moments.
    """

    def __init__(self, at: int) -> None:
        self._left = at
        self.line: str | None = None

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Interrupt the block."""
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _note(self, frame: FrameType, event: str, _value: Any) -> None:
        code = frame.f_code
        if event not in _MOMENTS or not code.co_filename.startswith(_PLACES):
            return
        if code.co_name == "__del__":  # Python only reports what a finalizer raises
            return
        if self._left == 0 and self.line is None:
            self.line = f"{code.co_filename}:{frame.f_lineno}"
            sys.setprofile(None)
            raise KeyboardInterrupt
        self._left -= 1


def at_each_moment(attempt: Callable[[Interrupts], object], step: int = 1) -> None:
    """Interrupt an attempt at each of its moments in turn, or at each `step`-th one."""
    for at in count(step=step):
        interrupts = Interrupts(at)
        attempt(interrupts)
        if interrupts.line is None:
            break
    assert at >= _LEAST_MOMENTS, "there was nothing to interrupt"
