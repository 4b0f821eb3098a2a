"""A few words of shared memory in which a worker marks what it runs, for its peer to read.

The peer can read the marker when the worker is dead or holds the GIL. From it the peer knows
which handler ran too long, which one crashed the worker, and which tasks had not started.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import struct
from typing import Final, NamedTuple

from peers.types import BATCH_SIZE_MAX

# Native and aligned: the CPU stores each field, one word, as a whole. The time to kill at comes
# first, and the seals come last.
_MARKER: Final = struct.Struct("@QQQQQQ")
_WORD: Final = struct.Struct("@Q")
_KILL_AT: Final = 0
_NOTE: Final = struct.Struct("@QQQQQ")
_NOTE_AT: Final = _WORD.size
_RUNNING_AT: Final = _MARKER.size - _WORD.size
_IDLE: Final = 0
_NEVER: Final = 0
_SPAN_BITS: Final = 10
assert 1 << _SPAN_BITS > BATCH_SIZE_MAX
_TRIES: Final = 8
"""How often to read a note that changes meanwhile. A step of an event loop takes longer."""

MARKER_SIZE: Final = _MARKER.size

_F_SEAL_FUTURE_WRITE: Final = 0x10  # of linux/fcntl.h; Python has no name for it


class Running(NamedTuple):
    """The handler call that runs: its first execution id (0: none runs) and how many ids it spans.

    `since` is on the scale of `time.monotonic()`.
    """

    execution_id: int
    span: int
    since: float

    @property
    def execution_ids(self) -> range:
        """Return the execution ids of the call; empty when none runs."""
        return range(self.execution_id, self.execution_id + self.span)


class RunningMarker:
    """The handler call that was started last, and whether it still runs.

    The worker writes while its peer reads, and neither waits for the other. So a seal made of
    the three fields is written behind them, twice. One seal stays; the other is cleared when no
    handler runs. The peer takes only fields that match their seal and are the same when read
    again. If there are none, the peer assumes that no handler runs. So it sees an exceeded
    timeout at the next look, and never blames a call for the time of another. (Without a seal, and
    packed byte by byte, one in 1,500 async handlers was killed without having exceeded its
    timeout.)

    The word before the note says when to kill the call. It is cleared before the note of another
    call is written, and read after the note, so that no call is killed for the time of another.
    One call of `pack_into` does both: it writes zeros first, and then the fields in their order.
    """

    def __init__(self, fd: int, *, writable: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(fd, MARKER_SIZE, prot=protection)
        if writable:
            # A handler that writes into a wrong descriptor must not change the marker: from now on
            # only this mapping can. (Before Linux 5.1, or without a memfd, every writer can.)
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)

    def start(self, execution_id: int, now_ns: int, span: int = 1) -> None:
        """Mark a handler that starts, or gets the event loop back, at `time.monotonic_ns()`."""
        seal = execution_id << _SPAN_BITS ^ span ^ now_ns
        _MARKER.pack_into(self._memory, 0, _NEVER, execution_id, span, now_ns, seal, seal)

    def clear(self) -> None:
        """Mark that no handler runs."""
        _WORD.pack_into(self._memory, _RUNNING_AT, _IDLE)

    def set_kill_at(self, kill_at_ns: int | None) -> None:
        """Ask the peer to kill the worker at this time if the call still runs; None: never."""
        kill_at = _NEVER if kill_at_ns is None else kill_at_ns
        _WORD.pack_into(self._memory, _KILL_AT, kill_at)

    def kill_at(self) -> float:
        """Return when (monotonic) to kill the call that `running` returned before."""
        kill_at_ns: int = _WORD.unpack_from(self._memory, _KILL_AT)[0]
        return float("inf") if kill_at_ns == _NEVER else kill_at_ns / 1e9

    def running(self) -> Running:
        """Return the handler call that runs now."""
        for _ in range(_TRIES):
            note = _NOTE.unpack_from(self._memory, _NOTE_AT)
            execution_id, span, now_ns, _, seal = note
            if seal == _IDLE:
                break
            if _matches(note, seal) and _NOTE.unpack_from(self._memory, _NOTE_AT) == note:
                return Running(execution_id, span, now_ns / 1e9)
        return Running(0, 0, 0.0)

    def last_started(self) -> range | None:
        """Return the execution ids of the last call that a dead worker started; empty: none.

        None: the note cannot be read.
        """
        note = _NOTE.unpack_from(self._memory, _NOTE_AT)
        execution_id, span, _, seal, _ = note
        return range(execution_id, execution_id + span) if _matches(note, seal) else None

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()


def _matches(note: tuple[int, ...], seal: int) -> bool:
    execution_id, span, now_ns, *_ = note
    return seal == execution_id << _SPAN_BITS ^ span ^ now_ns
