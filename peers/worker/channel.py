"""A worker's end of the socket to its parent."""

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
from typing import Any, Final, NoReturn

from peers import errors
from peers.context import CurrentTask
from peers.protocol.messages import (
    Assigned,
    Call,
    Completed,
    Failed,
    Outcomes,
    Reply,
    ToParent,
    ToWorker,
    encode,
    split,
    to_worker,
)

_READ_SIZE: Final = 1 << 16
_FRAME_BYTES: Final = 1 << 20
"""Of outcomes: the parent holds a frame several times over while it takes it in."""
_NO_REPLY: Final = 0


class _Waiting:
    """A call of a handler whose answer has not come yet."""

    def __init__(self) -> None:
        self.answered = threading.Event()
        self.reply: Reply | None = None


class Channel:
    """Sends from any thread; receives on one: first in the main thread, then in a reader thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._buffer = bytearray()
        self._waiting: dict[int, _Waiting] = {}
        self._calls = count(_NO_REPLY + 1)
        self.limit: Callable[[int, float | None], None] = _no_limit
        """Set by the loop that runs the handlers."""

    def send(self, message: ToParent) -> None:
        """Send one message; blocks while the parent does not read.

        Ends the process when that is impossible: a handler has closed the socket, and who can say
        no more would keep its tasks for ever.
        """
        frame = encode(message)
        with self._sending:
            try:
                self._socket.sendall(frame)
            except OSError:
                give_up()

    def tell_outcomes(self, outcomes: list[Completed | Failed]) -> None:
        """Send these outcomes, in frames that do not fill the parent's memory."""
        try:
            self._tell_outcomes(outcomes)
        except BaseException:  # noqa: BLE001  # no memory, say; untold, they would run for ever
            give_up()

    def _tell_outcomes(self, outcomes: list[Completed | Failed]) -> None:
        frame: list[Completed | Failed] = []
        size = 0
        for outcome in outcomes:
            frame.append(outcome)
            if isinstance(outcome, Completed):
                size += len(outcome.result)
            else:
                size += len(outcome.error_message) + len(outcome.traceback or "")
            if size > _FRAME_BYTES:
                self.send(Outcomes(frame))
                frame, size = [], 0
        if frame:
            self.send(Outcomes(frame))

    def receive(self) -> ToWorker | None:
        """The next message, before the reader runs; None at the end."""
        while True:
            for body in split(self._buffer):
                message: ToWorker = to_worker.decode(body)
                return message
            if not self._read():
                return None

    def current_task(self, task: Assigned, started: float) -> CurrentTask:
        """What the handler of `task` may know, and its way to the scheduler."""
        return CurrentTask(
            id=task.task_id,
            kind=task.kind,
            attempt=task.attempt,
            token=task.token.decode(),
            deadline=None if task.timeout is None else started + task.timeout,
            ticket=task.ticket,
            _scheduler=self,
        )

    def start_reader(self, take: Callable[[ToWorker], None]) -> None:
        """Read in a thread from now on and hand everything but replies to `take`."""

        def read() -> None:
            try:
                self._read_all(take)
            except BaseException:  # noqa: BLE001  # a deaf worker would keep its tasks for ever
                give_up()

        threading.Thread(target=read, name="reader", daemon=True).start()

    def call(self, ticket: int, verb: str, payload: object) -> Any:
        """Ask the scheduler through the parent and wait for the answer.

        Raises `DatabaseUnreachable` when the parent cannot answer now, and what the database
        refuses as the error of ours that a direct call would raise.
        """
        call, waiting = next(self._calls), _Waiting()
        self._waiting[call] = waiting
        self.send(Call(call, ticket, verb, json.dumps(payload).encode()))
        waiting.answered.wait()
        reply = waiting.reply
        assert reply is not None
        if reply.error is not None:
            raise _error(*reply.error)
        return json.loads(reply.body)

    def tell(self, ticket: int, verb: str, payload: object) -> None:
        """Say something to the scheduler without waiting."""
        self.send(Call(_NO_REPLY, ticket, verb, json.dumps(payload).encode()))

    def _read(self) -> bool:
        try:
            data = self._socket.recv(_READ_SIZE)
        except ConnectionResetError:  # the parent went with something of ours unread
            return False
        self._buffer += data
        return bool(data)

    def _read_all(self, take: Callable[[ToWorker], None]) -> None:
        while True:
            for body in split(self._buffer):
                message = to_worker.decode(body)
                if isinstance(message, Reply):
                    waiting = self._waiting.pop(message.call)
                    waiting.reply = message
                    waiting.answered.set()
                else:
                    take(message)
            if not self._read():
                os._exit(0)  # the parent is gone, and with it the leases


def _no_limit(_ticket: int, _seconds: float | None) -> None:
    raise AssertionError("no handler runs before there is a loop")


def give_up() -> NoReturn:
    """Say why, if that is possible, and end the process."""
    with contextlib.suppress(BaseException):
        # not to stderr itself, which may stand still
        words = "the worker and its peer do not reach each other"
        logging.getLogger("peers").error(words, exc_info=sys.exc_info())
    os._exit(1)


def _error(kind: str, message: str, hint: str | None) -> errors.PeersError:
    """What the parent met, as the same class."""
    known = getattr(errors, kind, errors.PeersError)
    if not issubclass(known, errors.PeersError):
        known = errors.PeersError
    return known(message, hint)
