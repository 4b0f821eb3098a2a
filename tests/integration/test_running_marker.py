"""The page on which a worker notes what it runs: read while it is written, never half."""

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

from peers.protocol.running_marker import PAGE_SIZE, Page, Running

READS = 300_000
PATIENCE = 60.0
_ODD = 1_000_003
_SOURCES = Path(__file__).parents[2]

# Notes that tell of themselves whether they are whole: span and time follow from the ticket.
_SPIN = f"""
import sys
from itertools import cycle
from tests.integration.test_running_marker import {{kind}}
page = {{kind}}(int(sys.argv[1]), writable=True)
print("spins", flush=True)
for number in cycle(range(1, 1 << 20)):
    for _ in range(20):
        pass  # no handler is quicker
    ticket = number << 20 | number
    page.start(ticket, ticket * {_ODD} & (1 << 60) - 1, number % 1000 + 1)
    if number % 3 == 0:
        page.rest()
"""


class UnsealedPage(Page):
    """As it was: the fields are packed byte by byte, and nothing tells whether they are whole."""

    _FIELDS = struct.Struct("=QQQ")

    def start(self, ticket: int, now_ns: int, span: int = 1) -> None:
        self._FIELDS.pack_into(self._memory, 0, now_ns, span, ticket)

    def rest(self) -> None:
        self._FIELDS.pack_into(self._memory, 0, 0, 0, 0)

    def running(self) -> Running:
        now_ns, span, ticket = self._FIELDS.unpack_from(self._memory)
        return Running(ticket, span, now_ns / 1e9)


@contextmanager
def spinning(kind: type[Page]) -> Iterator[Page]:
    """What a process writes as fast as it can."""
    fd = os.memfd_create("page")
    os.ftruncate(fd, PAGE_SIZE)
    code = _SPIN.format(kind=kind.__name__)
    environment = {**os.environ, "PYTHONPATH": str(_SOURCES)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(fd)],
        pass_fds=(fd,), stdout=subprocess.PIPE, env=environment,
    ) as writer:  # fmt: skip
        page = kind(fd, writable=False)
        os.close(fd)
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"spins\n"
            yield page
        finally:
            writer.kill()
            page.close()


def is_torn(note: Running) -> bool:
    """Whether the fields are of more than one note."""
    if note.ticket == 0:
        return note != (0, 0, 0.0)
    number = note.ticket & ((1 << 20) - 1)
    due = note.ticket * _ODD & (1 << 60) - 1
    return (note.span, note.since) != (number % 1000 + 1, due / 1e9)


def test_a_note_that_is_read_while_it_is_written_is_whole_or_none() -> None:
    """One process writes and another reads as fast as they can: not one note is torn, and the
    notes are not all missed either.
    """
    with spinning(Page) as page:
        torn, seen = 0, set()
        for _ in range(READS):
            note = page.running()
            torn += is_torn(note)
            seen.add(note.ticket)
    assert torn == 0
    assert len(seen) > 2


def test_the_page_without_a_seal_is_caught_by_the_same_reader() -> None:
    """Packed byte by byte and read in between, notes are torn: this test can see it."""
    with spinning(UnsealedPage) as page:
        give_up = time.monotonic() + PATIENCE
        while not is_torn(page.running()):
            assert time.monotonic() < give_up, "the broken variant is not caught"


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of its own."""
    fd = os.memfd_create("page")
    os.ftruncate(fd, PAGE_SIZE)
    made = Page(fd, writable=True)
    os.close(fd)
    yield made
    made.close()


def test_a_page_says_who_runs_and_who_ran_last(page: Page) -> None:
    """Nobody at first; the call that was started; and when it rests, the last one all the same."""
    assert (page.running(), page.last_started()) == ((0, 0, 0.0), range(0))
    page.start(7, 5_000_000_000, 3)
    assert (page.running(), page.last_started()) == ((7, 3, 5.0), range(7, 10))
    page.rest()
    assert (page.running(), page.last_started()) == ((0, 0, 0.0), range(7, 10))


def test_nothing_but_its_worker_writes_on_a_page() -> None:
    """A handler that writes into descriptors that are not its own cannot destroy the record."""
    fd = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, PAGE_SIZE)
        page = Page(fd, writable=True)
        page.start(7, 5_000_000_000, 3)
        with pytest.raises(PermissionError):
            os.write(fd, b"hello")
        page.start(8, 6_000_000_000)
        assert page.last_started() == range(8, 9)
        page.close()
    finally:
        os.close(fd)


@pytest.mark.parametrize("field", range(4))
def test_a_note_that_was_left_half_written_is_none(page: Page, field: int) -> None:
    """A worker that is killed between two words has started nothing that is known: no call of
    before is blamed with the ticket, the span or the time of the next.
    """
    page.start(7, 5_000_000_000, 3)
    words = memoryview(page._memory).cast("Q")
    words[field] ^= 1 << 40
    words.release()
    assert page.running().ticket == (7 if field == 3 else 0)
    assert page.last_started() is None
