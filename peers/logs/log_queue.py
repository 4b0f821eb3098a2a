"""Write a log that never blocks: lines wait in a bounded queue, and one thread writes them.

The reader of stderr may stop reading (a stuck journald or log driver, a pager). The heartbeat and
the fence must not wait for it, so lines that do not fit into the queue are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

LINES_MAX: Final = 10_000
BYTES_MAX: Final = 16 << 20
"""Lines may be long: a traceback has up to 64 kB, and user code may log anything."""
FLUSH_SECONDS: Final = 1.0
"""The seconds that the end of a process waits for lines that are not written yet."""
_WAIT_LINES_MAX: Final = 16
"""With more lines in the queue no caller waits, or a slow reader would slow its writers down."""


class _Line(NamedTuple):
    text: bytes
    stands_for: int
    """The number of lines that are lost when this one cannot be written."""
    entry: bytes = b""
    """The same for the target. Empty: write the text."""

    @property
    def size(self) -> int:
        """Return how many bytes it has in the queue."""
        return len(self.text) + len(self.entry)


class Target(NamedTuple):
    """Where entries go instead of the descriptor, which still gets what `write` does not take."""

    encode: Callable[[logging.LogRecord], bytes]
    write: Callable[[bytes], bool]


class QueueHandler(logging.Handler):
    """Formats records in the caller, and writes them in a thread.

    After a dropped line all later lines are dropped too, until everything before them is written.
    Then `notice` makes one line of their number, in the place of the gap.

    `write_timeout` is the number of seconds that a caller waits for its line to be written, as long
    as lines are written at all. So the last line before a crash of user code is not lost. The peer
    itself does not wait.
    """

    def __init__(
        self,
        descriptor: int,
        notice: Callable[[int], logging.LogRecord],
        write_timeout: float = 0.0,
        target: Target | None = None,
    ) -> None:
        super().__init__()
        self._target = target
        self._descriptor = descriptor
        self._notice = notice
        self._write_timeout = write_timeout
        self._lines: deque[_Line] = deque()
        self._bytes = 0
        self._dropped = 0
        self._put = 0
        self._done = 0
        self._stuck = False
        self._failing = False
        self._closed = False
        self._has_writer = False
        # logging holds this lock while it emits, and replaces it in a forked child
        assert self.lock is not None
        self._filled = threading.Condition(self.lock)
        self._written = threading.Condition(self.lock)
        self._writer = self._start_writer()
        me = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forked(me()))

    def emit(self, record: logging.LogRecord) -> None:
        """Put the record into the queue, or drop it."""
        self._put_line(self._line(record, 1))

    def emit_soon(self, record: logging.LogRecord) -> None:
        """Put the record into the queue, or drop it; never wait for it to be written."""
        with contextlib.suppress(Exception):  # as logging does with what a formatter raises
            self._put_line(self._line(record, 1), wait=False)

    def put(self, text: str) -> None:
        """Put text into the queue, or drop it."""
        self._put_line(_Line(_encoded(text), 1))

    def _line(self, record: logging.LogRecord, stands_for: int) -> _Line:
        entry = b"" if self._target is None else self._target.encode(record)
        return _Line(_encoded(self.format(record)), stands_for, entry)

    def _put_line(self, line: _Line, *, wait: bool = True) -> None:
        with self._filled:
            if not self._has_writer:  # such as in a forked child, which may block
                self._write(line)
                return
            full = len(self._lines) >= LINES_MAX or self._bytes + line.size > BYTES_MAX
            if self._closed or (self._dropped and not self._failing) or (full and self._lines):
                self._dropped += 1
                return
            self._append(line)
            wait = wait and self._write_timeout > 0 and not self._stuck
            if wait and len(self._lines) < _WAIT_LINES_MAX:
                number = self._put
                self._await(lambda: self._done >= number, self._write_timeout)

    def flush(self) -> None:
        """Wait for a moment until everything is written."""
        with self._written:
            if self._has_writer:
                self._await(self._is_idle, FLUSH_SECONDS)

    def write_to(self, descriptor: int) -> None:
        """Write the next lines to this descriptor."""
        self._descriptor = descriptor

    def pause(self) -> None:
        """End the writer before a fork. Until `resume`, callers write their lines themselves.

        The writer goes on if it cannot empty the queue, because the reader has stopped reading.
        """
        self.flush()
        with self._filled:
            if not self._has_writer or not self._is_idle():
                return
            self._has_writer = False
            self._filled.notify()
        self._writer.join()

    def resume(self) -> None:
        """Start a writer, after `pause` or in a forked child."""
        if not self._has_writer:
            self._writer = self._start_writer()

    def close(self) -> None:
        """Take no more lines. Waiting lines are still written."""
        with self._filled:
            self._closed = True
            self._filled.notify()
        super().close()

    def _start_writer(self) -> threading.Thread:
        self._has_writer = True
        writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        writer.start()
        return writer

    def _append(self, line: _Line) -> None:
        self._lines.append(line)
        self._bytes += line.size
        self._put += 1
        self._filled.notify()

    def _is_idle(self) -> bool:
        return self._done >= self._put and (self._failing or not self._dropped)

    def _await(self, holds: Callable[[], bool], seconds: float) -> None:
        # a destructor may log in the writer itself
        if threading.current_thread() is not self._writer:
            self._stuck = not self._written.wait_for(holds, seconds)

    def _write_all(self) -> None:
        while (line := self._next()) is not None:
            written = self._write(line)
            with self._written:
                self._done += 1
                self._stuck = False
                self._failing = not written
                if not written:  # a closed descriptor, no reader, a full disk
                    self._dropped += line.stands_for
                self._written.notify_all()

    def _next(self) -> _Line | None:
        """Wait for the next line. Return None at the end."""
        with self._filled:
            while not self._lines:
                if self._dropped and not self._failing:
                    dropped, self._dropped = self._dropped, 0
                    self._append(self._line(self._notice(dropped), dropped))
                elif self._closed or not self._has_writer:
                    return None
                else:
                    self._filled.wait()
            line = self._lines.popleft()
            self._bytes -= line.size
            return line

    def _write(self, line: _Line) -> bool:
        """Write to the descriptor: user code may hold the lock of sys.stderr."""
        if self._target is not None and line.entry and self._target.write(line.entry):
            return True
        left = memoryview(line.text)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process made the terminal or pipe non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True


def _encoded(text: str) -> bytes:
    return (text + "\n").encode(errors="backslashreplace")


def _forked(handler: QueueHandler | None) -> None:
    if handler is not None:
        handler._has_writer = False  # noqa: SLF001  # the module's own
