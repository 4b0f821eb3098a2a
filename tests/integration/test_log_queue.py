"""The log queue: nothing that happens to the reader blocks a process that logs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from peers import events
from peers.logs.log_format import Json
from peers.logs.log_queue import BYTES_MAX, LINES_MAX, QueueHandler
from tests.support.cli import PATIENCE, environment, until

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 100_000


class Pipe:
    """A pipe, a log that writes into it, and nobody who reads it yet."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.handler = QueueHandler(self.writer, events.dropped_record)
        self.handler.setFormatter(Json(journal=False))
        self.logger = logging.getLogger("test.pipe")
        self.logger.propagate = False
        self.logger.handlers = [self.handler]
        self._got = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def drain(self) -> None:
        """From now on somebody reads."""
        self._thread.start()

    def close(self) -> None:
        """The log ends, and so does its reader."""
        if not self._thread.is_alive():
            self.drain()
        self.logger.handlers = []
        self.handler.close()
        self.handler._writer.join(PATIENCE)
        os.close(self.writer)
        self._thread.join(PATIENCE)
        os.close(self.reader)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The whole lines that have come."""
        return [
            json.loads(line) for line in bytes(self._got).splitlines(True) if line[-1:] == b"\n"
        ]

    def ends_with(self, word: str) -> bool:
        """Whether the last line holds it."""
        return word.encode() in bytes(self._got[-500:])

    @property
    def dropped(self) -> list[int]:
        """The numbers of the lines that say how many were dropped."""
        return [line["lines"] for line in self.lines if line["event"] == "log_dropped"]

    @property
    def told(self) -> int:
        """How many lines came or were counted as dropped."""
        return len(self.lines) - len(self.dropped) + sum(self.dropped)

    def _read(self) -> None:
        while data := os.read(self.reader, 1 << 16):
            self._got += data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A stuck log."""
    made = Pipe()
    yield made
    made.close()


def test_a_stuck_reader_blocks_nobody_and_lost_lines_are_counted(pipe: Pipe) -> None:
    """100,000 records return although nobody reads; then the log has each or counts it, once."""
    done = threading.Event()

    def emit() -> None:
        for number in range(MANY):
            pipe.logger.warning("line %d", number)
        done.set()

    threading.Thread(target=emit, daemon=True).start()
    assert done.wait(PATIENCE), "the writer waited for a reader"
    pipe.drain()
    until(lambda: pipe.ends_with("log_dropped"), "the number of those that are lost")
    assert pipe.told == MANY
    [dropped] = pipe.dropped
    assert MANY - dropped >= LINES_MAX
    numbers = [int(line["message"].split()[1]) for line in pipe.lines if line["event"] == "log"]
    assert numbers == sorted(numbers)
    assert pipe.lines[-1]["message"].startswith(f"dropped {dropped} lines of this log")
    pipe.logger.warning("after it")
    until(lambda: pipe.ends_with("after it"), "the log goes on")


def test_long_lines_do_not_fill_the_memory(pipe: Pipe) -> None:
    """The bound counts bytes as well as lines."""
    line = "x" * (1 << 20)
    for _ in range(100):
        pipe.logger.warning(line)
    assert pipe.handler._bytes <= BYTES_MAX
    pipe.drain()
    until(lambda: pipe.told == 100, "every line is there or counted")


def test_several_gaps_are_reported_in_their_places(pipe: Pipe) -> None:
    """The lines that came and the lines that were counted add up."""
    pipe.drain()

    def emit() -> None:
        for _ in range(8_000):
            pipe.logger.warning("x" * 200)

    threads = [threading.Thread(target=emit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    pipe.handler.flush()
    until(lambda: pipe.told == 32_000, "every line is there or counted")


@pytest.mark.parametrize("fault", ["closed", "no reader", "full disk"])
def test_a_log_that_cannot_be_written_costs_its_lines_only(fault: str) -> None:
    """The process goes on, and its end does not wait for lost lines."""
    reader, writer = os.pipe()
    if fault == "full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    os.close(reader)
    if fault == "closed":
        os.close(writer)
    handler = QueueHandler(writer, events.dropped_record)
    handler.setFormatter(Json(journal=False))
    for _ in range(100):
        handler.emit(logging.makeLogRecord({"msg": "x"}))
    handler.flush()
    assert (handler._failing, handler._dropped, handler._stuck) == (True, 100, False)
    handler.close()
    handler._writer.join(PATIENCE)
    assert not handler._writer.is_alive()
    if fault != "closed":
        os.close(writer)


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    """Another process may have made the terminal or pipe that both write into non-blocking."""
    os.set_blocking(pipe.writer, False)
    for _ in range(5_000):
        pipe.logger.warning("x" * 100)
    pipe.drain()
    until(lambda: len(pipe.lines) == 5_000, "every line")
    assert not pipe.dropped


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_logs_too(pipe: Pipe) -> None:
    """It has no thread that writes, so it writes itself."""
    pipe.drain()
    pipe.logger.warning("parent")
    child = os.fork()
    if child == 0:
        pipe.logger.warning("child")
        os._exit(0)
    os.waitpid(child, 0)
    until(lambda: {line["message"] for line in pipe.lines} == {"parent", "child"}, "both")


def test_a_log_without_its_thread_loses_nothing(pipe: Pipe) -> None:
    """Before a fork the thread ends, with every line written; callers write until it is back."""
    pipe.drain()
    threads = threading.active_count()
    for number in range(100):
        pipe.logger.warning("%d", number)
    pipe.handler.pause()
    assert threading.active_count() == threads - 1
    pipe.logger.warning("meanwhile")
    pipe.handler.resume()
    assert threading.active_count() == threads
    pipe.logger.warning("afterwards")
    until(lambda: pipe.ends_with("afterwards"), "the last line")
    found = [line["message"] for line in pipe.lines]
    assert found == [*map(str, range(100)), "meanwhile", "afterwards"]


def test_the_writer_goes_on_when_nothing_reads_the_log(pipe: Pipe) -> None:
    """It cannot empty the queue, and a process that forks does not wait for it."""
    for _ in range(20):
        pipe.logger.warning("x" * (1 << 16))
    pipe.handler.pause()
    assert pipe.handler._has_writer
    assert pipe.handler._writer.is_alive()
    pipe.drain()
    until(lambda: pipe.told == 20, "every line")


def test_nobody_waits_behind_many_lines(pipe: Pipe) -> None:
    """A slow reader does not slow its writers down."""
    for _ in range(20):
        pipe.logger.warning("x" * (1 << 16))
    pipe.handler._write_timeout = 1_000.0
    another = threading.Thread(target=lambda: pipe.logger.warning("x"), daemon=True)
    another.start()
    another.join(PATIENCE)
    assert not another.is_alive()


SCRIPT = """
import logging, os, sys
from peers.logs import log_output
log_output.configure("json", write_timeout=%s)
log = logging.getLogger("shop")
for number in range(%d):
    log.warning("%%s", "x" * 100)
%s
"""


@pytest.mark.parametrize("end", ["", "os._exit(0)", "raise SystemExit(0)"])
def test_a_process_whose_log_is_stuck_still_ends(end: str) -> None:
    """Its exit does not hang, nor do callers that wait for their lines to be written."""
    reader, writer = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % (0.25, 20_000, end)], env=environment(), stderr=writer,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    os.close(writer)
    os.close(reader)
    assert done.returncode == 0


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_what_was_logged_before_a_crash_is_found(end: str) -> None:
    """With a write timeout the line is written before the caller goes on."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % (60, 3, end)], env=environment(), capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 3


def test_the_end_writes_what_is_waiting() -> None:
    """A reader that reads gets every line of a process that ends as usual."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % (0, 5_000, "")], env=environment(), capture_output=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert len(done.stderr.splitlines()) == 5_000
