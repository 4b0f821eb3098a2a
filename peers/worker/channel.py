"""A worker's end of the socket to its peer."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final, NoReturn
from uuid import UUID

from peers import errors
from peers.context import CurrentTask
from peers.protocol.messages import (
    READER_THREAD,
    Completed,
    Failed,
    HandlerRequest,
    Outcomes,
    Peek,
    Peeked,
    Reply,
    Stack,
    ToParent,
    ToWorker,
    encode,
    split,
    to_worker,
)
from peers.worker.assigned import AssignedTask

_READ_SIZE: Final = 1 << 16
_OUTCOMES_BYTES: Final = 1 << 20
"""The size of an Outcomes message: the peer holds it several times over while it decodes it."""
_NO_REPLY: Final = 0


class _PendingRequest:
    """A handler's request whose reply has not come yet."""

    def __init__(self) -> None:
        self.replied = threading.Event()
        self.reply: Reply | None = None


class Channel:
    """Sends from any thread; receives in one: first in the main thread, then in a reader thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._buffer = bytearray()
        self._pending: dict[int, _PendingRequest] = {}
        self._request_ids = count(_NO_REPLY + 1)
        self.limit: Callable[[int, float | None], None] = _no_limit
        """Set by the loop that runs the handlers."""
        self.stacks: Callable[[int], tuple[list[Stack], str]] = _no_stacks
        """Returns the stacks of an execution, and a remark. Set by the same loop."""
        self._is_forked = False
        os.register_at_fork(after_in_child=self._note_fork)

    def _note_fork(self) -> None:
        self._is_forked = True

    def send(self, message: ToParent) -> None:
        """Send one message; block while the peer does not read.

        Exits the process when the socket is broken, because a handler has closed it: a worker that
        cannot send outcomes would keep its tasks for ever.
        """
        data = encode(message)
        with self._sending:
            try:
                self._socket.sendall(data)
            except OSError:
                exit_disconnected()

    def exit_if_forked(self) -> None:
        """Exit a process that a handler has forked, and that leaves the handler.

        What it returns is not the outcome of the task. It would run the tasks that wait as well.
        """
        if not self._is_forked:
            return
        with contextlib.suppress(BaseException):
            logging.getLogger("peers").warning(
                "a process that a handler had forked left the handler, and was ended;"
                " call os._exit() at its end"
            )
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)

    def send_outcomes(self, outcomes: list[Completed | Failed]) -> None:
        """Send these outcomes, in messages that do not fill the peer's memory."""
        self.exit_if_forked()
        try:
            self._send_outcomes(outcomes)
        except BaseException:  # noqa: BLE001  # such as MemoryError; without an outcome a task would run for ever
            exit_disconnected()

    def _send_outcomes(self, outcomes: list[Completed | Failed]) -> None:
        chunk: list[Completed | Failed] = []
        size = 0
        for outcome in outcomes:
            chunk.append(outcome)
            if isinstance(outcome, Completed):
                size += len(outcome.results)
            else:
                size += len(outcome.error_message) + len(outcome.traceback or "")
            if size > _OUTCOMES_BYTES:
                self.send(Outcomes(chunk))
                chunk, size = [], 0
        if chunk:
            self.send(Outcomes(chunk))

    def receive(self) -> ToWorker | None:
        """Return the next message, before the reader runs; None at the end."""
        while True:
            for body in split(self._buffer):
                message: ToWorker = to_worker.decode(body)
                return message
            if not self._read():
                return None

    def current_task(self, task: AssignedTask, started: float) -> CurrentTask:
        """Return what the handler of `task` gets from `current_task()`."""
        return CurrentTask(
            id=task.task_id,
            kind=task.kind,
            attempt=task.attempt,
            token=str(UUID(bytes=task.token)),
            deadline=None if task.timeout is None else started + task.timeout,
            execution_id=task.execution_id,
            _scheduler=self,
        )

    def start_reader(self, handle: Callable[[ToWorker], None]) -> None:
        """Read in a thread from now on, and pass everything but replies to `handle`."""

        def read() -> None:
            with contextlib.suppress(OSError):  # the peer finds this thread by its name
                task = Path(f"/proc/self/task/{threading.get_native_id()}")
                (task / "comm").write_text(READER_THREAD, encoding="ascii")
            try:
                self._read_all(handle)
            except BaseException:  # noqa: BLE001  # a worker that reads nothing would keep its tasks for ever
                exit_disconnected()

        threading.Thread(target=read, name="reader", daemon=True).start()

    def call(self, execution_id: int, verb: str, payload: object) -> Any:
        """Send a request to the scheduler through the peer, and wait for its reply.

        Raises `DatabaseUnreachable` when the peer cannot execute it now, and errors of the
        database as the same exceptions of Peers that a direct call raises.
        """
        request_id, pending = next(self._request_ids), _PendingRequest()
        self._pending[request_id] = pending
        self.send(HandlerRequest(request_id, execution_id, verb, json.dumps(payload).encode()))
        pending.replied.wait()
        reply = pending.reply
        assert reply is not None
        if reply.error is not None:
            raise _error(*reply.error)
        return json.loads(reply.body)

    def tell(self, execution_id: int, verb: str, payload: object) -> None:
        """Send a request to the scheduler without waiting for a reply."""
        self.send(HandlerRequest(_NO_REPLY, execution_id, verb, json.dumps(payload).encode()))

    def _show_stacks(self, message: Peek) -> None:
        """Reply to a Peek. Whatever goes wrong, the tasks of this worker go on."""
        try:
            stacks, remark = self.stacks(message.execution_id)
        except Exception as error:  # noqa: BLE001  # such as MemoryError, or a recursion
            stacks, remark = [], f"the worker cannot read its stacks: {type(error).__name__}"
        self.send(Peeked(message.peek_id, stacks, remark))

    def _read(self) -> bool:
        try:
            data = self._socket.recv(_READ_SIZE)
        except ConnectionResetError:  # the peer died with unread messages of ours
            return False
        self._buffer += data
        return bool(data)

    def _read_all(self, handle: Callable[[ToWorker], None]) -> None:
        while True:
            for body in split(self._buffer):
                message = to_worker.decode(body)
                if isinstance(message, Reply):
                    pending = self._pending.pop(message.request_id)
                    pending.reply = message
                    pending.replied.set()
                elif isinstance(message, Peek):
                    self._show_stacks(message)
                else:
                    handle(message)
            if not self._read():
                os._exit(0)  # the peer is gone, and with it the leases


def _no_stacks(_execution_id: int) -> tuple[list[Stack], str]:
    return [], "no handler has started"


def _no_limit(_execution_id: int, _seconds: float | None) -> None:
    raise AssertionError("no handler runs before the loop starts")


def exit_disconnected() -> NoReturn:
    """Log why the worker cannot talk to its peer, if that is possible, and exit the process."""
    with contextlib.suppress(BaseException):
        # not to stderr itself, whose reader may have stopped
        sentence = "the worker cannot exchange messages with its peer"
        logging.getLogger("peers").error(sentence, exc_info=sys.exc_info())
    os._exit(1)


def _error(kind: str, message: str, hint: str | None) -> errors.PeersError:
    """Return the error that the peer met, of the same class."""
    known = getattr(errors, kind, errors.PeersError)
    if not issubclass(known, errors.PeersError):
        known = errors.PeersError
    return known(message, hint)
