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

_SWALLOWED: Final = frozenset({"__del__", "_notice_handler"})
"""Python only reports what a finalizer raises, and what a callback of libpq raises."""
_LEAST_MOMENTS: Final = 30


class Interrupts:
    """Raises KeyboardInterrupt once, at one of the moments when Python handles signals.

    at: how many moments pass before, in the code of Peers and psycopg; None: all of them.
    `passed` counts them. `line` says where it was; None means that the code had fewer moments.
    """

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.passed = 0
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
        if event not in _MOMENTS or not frame.f_code.co_filename.startswith(_PLACES):
            return
        self.passed += 1
        if self._at is None or self.passed <= self._at or self.line is not None:
            return
        if _SWALLOWED.isdisjoint(_functions(frame)):
            self.line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            sys.setprofile(None)
            raise KeyboardInterrupt


def _functions(frame: FrameType | None) -> Iterator[str]:
    """Yield the names of the functions that are being called."""
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def at_each_moment(attempt: Callable[[Interrupts], object], most: int | None = None) -> None:
    """Interrupt an attempt at each of its moments in turn, or at so many that are spread evenly."""
    whole = Interrupts(None)
    attempt(whole)
    assert whole.passed >= _LEAST_MOMENTS, "there was nothing to interrupt"
    step = 1 if most is None else max(1, whole.passed // most)
    for at in count(step=step):
        interrupts = Interrupts(at)
        attempt(interrupts)
        if interrupts.line is None:
            return
