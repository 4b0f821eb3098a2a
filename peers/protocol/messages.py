"""What crosses between a peer and its workers: msgpack frames over a Unix socket.

Args and results stay the JSON text that they are in the database; the parent passes them on as
bytes and never parses them. A `ticket` is the parent's own number for one assignment: a task that
is run again under a new lease gets a new one, so that a late answer cannot be mistaken for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

# A mark before each frame: what user code writes into a wrong descriptor is no length.
HEAD: Final = struct.Struct("!II")
_MARK: Final = 0x50656572


class Assigned(msgspec.Struct, array_like=True, frozen=True):
    """One task for a worker."""

    ticket: int
    task_id: int
    token: bytes
    attempt: int
    kind: str
    args: bytes
    timeout: float | None


class Completed(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The handler returned; `result` is JSON."""

    ticket: int
    seconds: float
    result: bytes


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The handler raised, or the args did not fit it."""

    ticket: int
    seconds: float
    error_type: str
    error_message: str
    traceback: str | None = None
    retry_in: float | None = None
    reject: bool = False
    exhausted: bool = False
    """The process ran out of descriptors, memory or threads; others may have used them up."""
    snooze: bool = False
    """It is no failure: the task runs again after `retry_in`, and the attempt does not count."""


class Begin(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """To a worker that said hello: run one handler at a time, or async ones on a loop."""

    asynchronous: bool


class Run(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """To a worker: run these in this order, or `together` in one call of their batch handler."""

    tasks: list[Assigned]
    together: bool = False


class Recall(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """To a worker: give back what has not been started."""


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """To a worker: stop this one (an async handler), or let it know (a sync one)."""

    ticket: int


class Reply(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """To a worker: the answer to its `Call`; JSON, or the error: its class, message and hint."""

    call: int
    body: bytes
    error: tuple[str, str, str | None] | None = None


class Stop(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """To a worker: there is no more to do; exit."""


class KindDeclared(msgspec.Struct, array_like=True, frozen=True):
    """A handler as its worker registered it; durations in seconds."""

    kind: str
    asynchronous: bool
    max_attempts: int
    timeout: float | None
    backoff_base: float
    backoff_cap: float
    batch_size: int | None = None
    batch_wait: float = 0.0


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """From a worker: the app is imported; these kinds it can run."""

    kinds: list[KindDeclared]


class Broken(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """From a worker or a fork server: the app cannot be imported."""

    error: str
    traceback: str


class Outcomes(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """From a worker: what became of some tasks."""

    outcomes: list[Completed | Failed]


class Requeued(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """From a worker: tickets that it was asked to give back and had not started."""

    tickets: list[int]


class Call(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """From a handler to the scheduler, through the parent; `body` is JSON. Call 0: no reply."""

    call: int
    ticket: int
    verb: str
    body: bytes


class Unfit(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """From a worker: it should run no more handlers than it has begun."""

    reason: str


class Preloaded(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """From a fork server: the app is imported, and workers can be forked from here."""


class Unforkable(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """From a fork server: the app is imported, but a copy of this process would not work."""

    reason: str


class Forked(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """From a fork server: this worker has been started, and its parent is the peer."""

    pid: int


class NotForked(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """From a fork server: the system has no room for the worker that was asked for."""

    error: str


ToWorker = Begin | Run | Recall | Cancel | Reply | Stop
ToParent = Hello | Broken | Outcomes | Requeued | Call | Unfit
FromForkServer = Preloaded | Broken | Unforkable | Forked | NotForked

_encoder = msgspec.msgpack.Encoder()
to_worker: Final = msgspec.msgpack.Decoder(ToWorker)
to_parent: Final = msgspec.msgpack.Decoder(ToParent)
from_fork_server: Final = msgspec.msgpack.Decoder(FromForkServer)


def encode(message: ToWorker | ToParent | FromForkServer) -> bytes:
    """One frame: a mark and its length (4 bytes each, network order), then the message."""
    body = _encoder.encode(message)
    return HEAD.pack(_MARK, len(body)) + body


def split(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole frames off the front of `buffer`; what is left of it waits for more bytes.

    Raises `msgspec.DecodeError` when what comes next is no frame.
    """
    start = 0
    try:
        while len(buffer) - start >= HEAD.size:
            mark, length = HEAD.unpack_from(buffer, start)
            if mark != _MARK:
                raise msgspec.DecodeError("what was sent is no frame")
            end = start + HEAD.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as whole:  # a slice of the buffer itself would be a second copy
                body = bytes(whole[start + HEAD.size : end])
            start = end
            yield body
    finally:  # also when the caller takes only the first
        del buffer[:start]
