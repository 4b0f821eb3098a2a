"""Take what handlers print: each line becomes a line of the log that names its task.

Of kinds that keep their logs, the text also goes to the peer at once, through the output pipe. So
the peer has it when this process is killed. While a sync handler of such a kind runs, standard
output and error are this pipe, so that the peer also gets what programs print.
"""

from __future__ import annotations

import ctypes
import io
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Container
from contextlib import suppress
from typing import Any, Final, TypeVar

from peers.handlers import registry
from peers.logs import log_format
from peers.protocol import output
from peers.worker.attribution import Call, call_here

T = TypeVar("T")

_STDOUT: Final = 1
_STDERR: Final = 2
_LONGEST_LINE: Final = 64 << 10
_WAIT_MS: Final = 250
"""How long a handler waits for a peer that does not read the pipe, before text is dropped."""
_libc: Final = ctypes.CDLL(None)
_LOST: Final = b"\n[%d bytes were lost here, because the peer did not take them in time]\n"


class OutputPipe:
    """Sends the output of kinds that keep their logs to the peer."""

    def __init__(self, descriptor: int, kinds: Container[str]) -> None:
        self.descriptor = descriptor
        # Another description of the same pipe that does not block, unlike the one that becomes the
        # standard output of programs: these do not expect that.
        try:
            self._writer = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # a sandbox without /proc, or no descriptor is free
            self._writer = descriptor
        self._kinds = kinds
        self._is_full = False
        self._lost = 0
        self._inode = os.fstat(descriptor).st_ino
        self._saved: tuple[int, int] | None = None

    def keeps(self, kind: str) -> bool:
        """Return whether the logs of this kind are kept."""
        return kind in self._kinds

    def begin(self, execution_id: int, span: int = 1) -> None:
        """Tell the peer that a call begins. Then its output follows."""
        self._write(output.begin(execution_id, span))

    def send(self, execution_id: int, text: bytes) -> None:
        """Send what a call has printed or logged. It never raises."""
        for frame in output.frames(execution_id, text):
            if self._lost and self._write(
                b"".join(output.frames(execution_id, _LOST % self._lost))
            ):
                self._lost = 0
            if not self._write(frame):
                self._lost += len(frame)

    def redirect(self) -> int:
        """Make this pipe standard output and error; return where standard error is meanwhile."""
        try:
            if self._saved is None:
                self._saved = os.dup(_STDOUT), os.dup(_STDERR)
            if _is(self.descriptor, self._inode):
                os.dup2(self.descriptor, _STDOUT)
                os.dup2(self.descriptor, _STDERR)
                return self._saved[1]
        except OSError:  # no descriptor is free, or a handler has closed one
            pass
        return _STDERR

    def restore(self) -> None:
        """Undo `redirect`."""
        _libc.fflush(None)  # what a C library has printed waits in its own buffer
        if self._saved is not None:
            with suppress(OSError):  # a handler may have closed them
                os.dup2(self._saved[0], _STDOUT)
                os.dup2(self._saved[1], _STDERR)

    def _write(self, frame: bytes) -> bool:
        """Write a frame; wait a moment if the pipe is full, but not again while it stays full."""
        try:
            if not _is(self._writer, self._inode):
                return False
            try:
                os.write(self._writer, frame)
            except BlockingIOError:
                if self._is_full or not self._has_room():
                    self._is_full = True
                    return False
                os.write(self._writer, frame)
        except OSError:
            return False
        self._is_full = False
        return True

    def _has_room(self) -> bool:
        """Wait a moment until the pipe takes a frame again."""
        poll = select.poll()
        poll.register(self._writer, select.POLLOUT)
        return bool(poll.poll(_WAIT_MS))


def _is(descriptor: int, inode: int) -> bool:
    """Return whether a descriptor is still the pipe. Raises `OSError`.

    A handler may have closed it, and opened a file of its own under this number.
    """
    return os.fstat(descriptor).st_ino == inode


class _Process:
    """The state of this process's output."""

    pipe: OutputPipe | None = None
    log: Callable[[logging.LogRecord], None] = staticmethod(lambda _record: None)
    move_log: Callable[[int], None] = staticmethod(lambda _descriptor: None)


_parts: Final[dict[tuple[int, int, int], tuple[Call, bytes]]] = {}
"""The lines that have no end yet: by descriptor, thread, and the execution id of the call."""


class _Stream(io.RawIOBase):
    """Standard output or error of Python code."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, data: Any) -> int:
        """Log the lines that a handler prints; write what other code prints as it is."""
        text = bytes(data)
        call = call_here()
        if call is None:
            left = memoryview(text)
            while left:
                left = left[os.write(self._descriptor, left) :]
            return len(text)
        send(call, text)
        key = (self._descriptor, threading.get_ident(), call.task.execution_id)
        _, before = _parts.pop(key, (call, b""))
        *lines, rest = (before + text).split(b"\n")
        for line in lines:
            _log_line(self._descriptor, call, line)
        if len(rest) > _LONGEST_LINE:
            _log_line(self._descriptor, call, rest)
        elif rest:
            _parts[key] = call, rest
        return len(text)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor, for programs that a handler starts."""
        return self._descriptor


def install(log: Callable[[logging.LogRecord], None], move_log: Callable[[int], None]) -> None:
    """Take what Python code prints from now on.

    `log` writes a record to the log. `move_log` lets the log write to another descriptor.
    """
    _Process.log, _Process.move_log = staticmethod(log), staticmethod(move_log)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            _Stream(descriptor),  # type: ignore[type-var]  # as with `python -u`
            encoding="utf-8", errors="backslashreplace", write_through=True,
        )
        for descriptor in (_STDOUT, _STDERR)
    )  # fmt: skip


def use_pipe(descriptor: int) -> None:
    """Send the output of kinds that keep their logs through this pipe; close it without any."""
    kinds = {handler.kind for handler in registry().values() if handler.keep_log}
    if kinds:
        _Process.pipe = OutputPipe(descriptor, kinds)
    else:
        os.close(descriptor)


def keeps(kind: str) -> bool:
    """Return whether the logs of this kind are kept."""
    return _Process.pipe is not None and _Process.pipe.keeps(kind)


def begin(kind: str, execution_id: int, span: int) -> None:
    """Tell the peer that an async handler call begins, if the logs of its kind are kept."""
    if _Process.pipe is not None and _Process.pipe.keeps(kind):
        _Process.pipe.begin(execution_id, span)


def captured(kind: str, execution_id: int, span: int, call: Callable[[], T]) -> T:
    """Call a sync handler, and take everything that it prints if the logs are kept."""
    pipe = _Process.pipe
    if pipe is None or not pipe.keeps(kind):
        return call()
    pipe.begin(execution_id, span)
    _Process.move_log(pipe.redirect())
    try:
        return call()
    finally:
        end_lines()
        pipe.restore()
        _Process.move_log(_STDERR)


def send(call: Call, text: bytes) -> None:
    """Send what a call has printed or logged to the peer, if the logs of its kind are kept."""
    pipe = _Process.pipe
    if pipe is not None and pipe.keeps(call.task.kind):
        pipe.send(call.task.execution_id, text.replace(b"\0", b"\\0"))


def end_lines(running: Container[int] = ()) -> None:
    """Log the lines without an end, except for those of these executions, which still run."""
    if _parts:
        for key in list(_parts):
            if key[2] not in running:
                call, rest = _parts.pop(key)
                _log_line(key[0], call, rest)


def _log_line(descriptor: int, call: Call, line: bytes) -> None:
    stream = "stdout" if descriptor == _STDOUT else "stderr"
    _Process.log(log_format.printed_record(stream, line, call.fields()))
