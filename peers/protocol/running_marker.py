"""The page of memory on which a worker notes what it runs, for its parent to read at any time.

Also when the worker is dead, or holds the GIL: that is how the parent knows who overran, who
crashed the worker, and what had not been started.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import struct
from typing import Final, NamedTuple

# Native and aligned: each field is one word, which is stored whole, and the seals come last.
_NOTE: Final = struct.Struct("@QQQQQ")
_SEAL: Final = struct.Struct("@Q")
_RUNNING_AT: Final = _NOTE.size - _SEAL.size
_NOBODY: Final = 0
_SPAN_BITS: Final = 10
_TRIES: Final = 8
"""How often to read again what was written meanwhile; a step of a loop takes longer than a read."""

_DUE_AT: Final = _NOTE.size
_DUE: Final = struct.Struct("@Q")
_NEVER: Final = 0

PAGE_SIZE: Final = _NOTE.size + _DUE.size

_F_SEAL_FUTURE_WRITE: Final = 0x10  # of linux/fcntl.h; Python has no name for it


class Running(NamedTuple):
    """The call that has the worker: its tickets begin with `ticket` (0: there is none).

    `span`: no ticket of the call is `ticket + span` or more. `since` is on the scale of
    `time.monotonic()`.
    """

    ticket: int
    span: int
    since: float


class Page:
    """The last call that was started, and whether it has the worker now.

    The worker writes while its parent reads, and neither waits for the other. So a seal made of the
    three fields is written behind them, twice: one stays, the other is taken away when nobody runs.
    A reader takes only fields that fit their seal, and that are still the same when read again.
    Where there are none, nobody runs as far as it knows: an overrun is seen at the next look, and
    no call is ever blamed for the time of another. (Without a seal, and packed byte by byte, one
    in 1,500 async handlers was killed for an overrun that had not happened.)

    The word behind the note says when the call should be killed. It is cleared before the note of
    another call is written, and read after the note, so that no call is killed for another's time.
    """

    def __init__(self, fd: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(fd, PAGE_SIZE, prot=protection)
        if writable:
            # A handler that writes into descriptors that are not its own must not change it: from
            # now on only this mapping can. (Before Linux 5.1, or without a memfd: anybody can.)
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)

    def start(self, ticket: int, now_ns: int, span: int = 1) -> None:
        """A handler is started or has the loop again; `now_ns` is `time.monotonic_ns()`."""
        seal = ticket << _SPAN_BITS ^ span ^ now_ns
        _DUE.pack_into(self._memory, _DUE_AT, _NEVER)
        _NOTE.pack_into(self._memory, 0, ticket, span, now_ns, seal, seal)

    def rest(self) -> None:
        """Nobody runs."""
        _SEAL.pack_into(self._memory, _RUNNING_AT, _NOBODY)

    def limit(self, due_ns: int | None) -> None:
        """Have the call that was started last killed at this time; None: it may run on."""
        _DUE.pack_into(self._memory, _DUE_AT, _NEVER if due_ns is None else due_ns)

    def due(self) -> float:
        """When (monotonic) the call that `running` returned before is to be killed."""
        due_ns: int = _DUE.unpack_from(self._memory, _DUE_AT)[0]
        return float("inf") if due_ns == _NEVER else due_ns / 1e9

    def running(self) -> Running:
        """The call that has the worker now."""
        for _ in range(_TRIES):
            note = _NOTE.unpack_from(self._memory)
            ticket, span, now_ns, _, seal = note
            if seal == _NOBODY:
                break
            if _fits(note, seal) and _NOTE.unpack_from(self._memory) == note:
                return Running(ticket, span, now_ns / 1e9)
        return Running(0, 0, 0.0)

    def last_started(self) -> range | None:
        """The tickets of the last call that a dead worker had started; empty: it started none.

        None: the note cannot be read.
        """
        note = _NOTE.unpack_from(self._memory)
        ticket, span, _, seal, _ = note
        return range(ticket, ticket + span) if _fits(note, seal) else None

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()


def _fits(note: tuple[int, ...], seal: int) -> bool:
    ticket, span, now_ns, *_ = note
    return seal == ticket << _SPAN_BITS ^ span ^ now_ns
