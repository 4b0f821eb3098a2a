"""The marker of what a worker runs: read while it is written, and never half."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers.protocol.running_marker import MARKER_SIZE, Running, RunningMarker

READS = 300_000
PATIENCE = 60.0
_ODD = 1_000_003
_SOURCES = Path(__file__).parents[2]

# Notes that tell of themselves whether they are whole: span and time follow from the execution_id.
_SPIN = f"""
import sys
from itertools import cycle
from tests.integration.test_running_marker import {{kind}}
marker = {{kind}}(int(sys.argv[1]), writable=True)
print("spins", flush=True)
for number in cycle(range(1, 1 << 20)):
    for _ in range(20):
        pass  # no handler is quicker
    execution_id = number << 20 | number
    marker.start(execution_id, execution_id * {_ODD} & (1 << 60) - 1, number % 1000 + 1)
    if number % 3 == 0:
        marker.clear()
"""


class UnsealedMarker(RunningMarker):
    """A broken variant: fields are packed byte by byte, and nothing shows that they are whole."""

    _FIELDS = struct.Struct("=QQQ")

    def start(self, execution_id: int, now_ns: int, span: int = 1) -> None:
        self._FIELDS.pack_into(self._memory, 0, now_ns, span, execution_id)

    def clear(self) -> None:
        self._FIELDS.pack_into(self._memory, 0, 0, 0, 0)

    def running(self) -> Running:
        now_ns, span, execution_id = self._FIELDS.unpack_from(self._memory)
        return Running(execution_id, span, now_ns / 1e9)


@contextmanager
def spinning(kind: type[RunningMarker]) -> Iterator[RunningMarker]:
    """A marker that another process writes as fast as it can."""
    fd = os.memfd_create("marker")
    os.ftruncate(fd, MARKER_SIZE)
    code = _SPIN.format(kind=kind.__name__)
    environment = {**os.environ, "PYTHONPATH": str(_SOURCES)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(fd)],
        pass_fds=(fd,), stdout=subprocess.PIPE, env=environment,
    ) as writer:  # fmt: skip
        marker = kind(fd, writable=False)
        os.close(fd)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"spins\n"
            yield marker
        finally:
            writer.kill()
            marker.close()


def is_torn(note: Running) -> bool:
    """Whether the fields are of more than one note."""
    if note.execution_id == 0:
        return note != (0, 0, 0.0)
    number = note.execution_id & ((1 << 20) - 1)
    due = note.execution_id * _ODD & (1 << 60) - 1
    return (note.span, note.since) != (number % 1000 + 1, due / 1e9)


def test_a_note_that_is_read_while_it_is_written_is_whole_or_none() -> None:
    """One process writes and another reads as fast as they can: not one note is torn, and the
    notes are not all missed either.
    """
    with spinning(RunningMarker) as marker:
        torn, seen = 0, set()
        for _ in range(READS):
            note = marker.running()
            torn += is_torn(note)
            seen.add(note.execution_id)
    assert torn == 0
    assert len(seen) > 2


def test_a_marker_without_a_seal_is_caught_by_the_same_reader() -> None:
    """Packed byte by byte and read in between, notes are torn: this test can see it."""
    with spinning(UnsealedMarker) as marker:
        give_up = time.monotonic() + PATIENCE
        while not is_torn(marker.running()):
            assert time.monotonic() < give_up, "the broken variant is not caught"


@pytest.fixture
def marker() -> Iterator[RunningMarker]:
    """A marker of its own."""
    fd = os.memfd_create("marker")
    os.ftruncate(fd, MARKER_SIZE)
    made = RunningMarker(fd, writable=True)
    os.close(fd)
    yield made
    made.close()


def test_a_marker_tells_which_call_runs_and_which_ran_last(marker: RunningMarker) -> None:
    """None at first; then the call that was started; after `clear` it is still the last one."""
    assert (marker.running(), marker.last_started()) == ((0, 0, 0.0), range(0))
    marker.start(7, 5_000_000_000, 3)
    assert (marker.running(), marker.last_started()) == ((7, 3, 5.0), range(7, 10))
    marker.clear()
    assert (marker.running(), marker.last_started()) == ((0, 0, 0.0), range(7, 10))


def test_only_its_worker_writes_a_marker() -> None:
    """A handler that writes into a wrong descriptor cannot destroy the marker."""
    fd = os.memfd_create("marker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, MARKER_SIZE)
        marker = RunningMarker(fd, writable=True)
        marker.start(7, 5_000_000_000, 3)
        with pytest.raises(PermissionError):
            os.write(fd, b"hello")
        marker.start(8, 6_000_000_000)
        assert marker.last_started() == range(8, 9)
        marker.close()
    finally:
        os.close(fd)


@pytest.mark.parametrize("field", range(4))
def test_a_note_that_was_left_half_written_is_none(marker: RunningMarker, field: int) -> None:
    """A worker that is killed between two words has started nothing that is known: no call of
    before is blamed with the execution_id, the span or the time of the next.
    """
    marker.start(7, 5_000_000_000, 3)
    words = memoryview(marker._memory).cast("Q")
    words[1 + field] ^= 1 << 40
    words.release()
    assert marker.running().execution_id == (7 if field == 3 else 0)
    assert marker.last_started() is None
