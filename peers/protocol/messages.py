"""The messages between a peer and its workers: msgpack over a Unix socket.

Args and results stay the JSON text that they are in the database. The peer passes them on as
bytes and never parses them. Thousands of quick tasks a second are assigned and completed in runs:
consecutive tasks of one claim, described by columns, without an object for each task.

An `execution_id` is the peer's own number for one task that it assigned to one worker. A task
that is assigned again gets a new one, so a late outcome cannot be taken for one of the new
execution. The tasks of an assignment have consecutive execution ids.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from peers.protocol.started_marks import UNMARKED
from peers.types import DEFAULT_PRIORITY, DEFAULT_QUEUE

# Each message starts with a mark and its length. What user code writes into a wrong descriptor has
# no mark, so it is not taken for a length.
HEADER: Final = struct.Struct("!II")
READER_THREAD: Final = "peers-reader"
"""The name of the worker's thread that reads messages, in /proc."""
NOT_STARTED: Final = "the task waits for a slot in its worker"
"""The remark of a Peeked for a task whose handler has not started."""
_MARK: Final = 0x50656572


# -------------------------------------------------------------------------- parts of messages


class AssignedRun(msgspec.Struct, array_like=True, frozen=True):
    """Consecutive tasks of one claim, for a worker.

    `attempts`, `kinds` and `timeouts` hold one value if all tasks have the same, or one for each.
    """

    execution_id: int
    """Of the first task."""
    count: int
    token: bytes
    """16 bytes."""
    task_ids: bytes
    """A bigint[] in Postgres's binary format, as the claim returned it."""
    attempts: tuple[int, ...]
    kinds: tuple[str, ...]
    timeouts: tuple[float | None, ...]
    args: bytes
    """A JSON array with an object for each task."""


class Completed(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The handlers of `count` consecutive executions returned; `results` is a JSON array."""

    execution_id: int
    """Of the first one."""
    seconds: float
    """How long all of them took."""
    results: bytes
    count: int = 1


class Failed(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The handler raised, or its args were invalid."""

    execution_id: int
    seconds: float
    error_type: str
    error_message: str
    traceback: str | None = None
    retry_in: float | None = None
    reject: bool = False
    exhausted: bool = False
    """The process ran out of descriptors, memory or threads. Another task may have used them up."""
    snooze: bool = False
    """Not a failure: the task runs again after `retry_in`, and the attempt does not count."""


class KindDeclared(msgspec.Struct, array_like=True, frozen=True):
    """A handler as the app registered it; durations in seconds."""

    kind: str
    asynchronous: bool
    max_attempts: int
    timeout: float | None
    backoff_base: float
    backoff_cap: float
    batch_size: int | None = None
    batch_wait: float = 0.0
    keep_log: str = ""
    """Whose logs are kept: of "failed" attempts, or "always"; empty: none."""
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """A function that was called and has not returned."""

    file: str
    line: int
    function: str


class Stack(msgspec.Struct, array_like=True, frozen=True):
    """The frames of a thread or of an asyncio task, the outermost first."""

    title: str
    frames: list[Frame]
    omitted: int = 0
    """How many frames are left out after the outermost ones."""


# ------------------------------------------------------------------------------------- to a worker


class Begin(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """Reply to a worker's Hello: run one handler at a time, or async handlers on an event loop."""

    asynchronous: bool


class Assign(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """Run these tasks in this order, or as one batch in one call of their batch handler.

    They have consecutive execution ids, and are of one queue. `slots`: how many handler calls of
    this queue an async worker may run at once. The other ones wait, in the order of their ids.
    `mark`: under which the worker marks those that it has started (`started_marks`).
    """

    runs: list[AssignedRun]
    as_batch: bool = False
    queue: str = ""
    slots: int = 1
    mark: int = UNMARKED


class Recall(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Give back the tasks that have not started."""


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Stop this task's handler (async), or set its `cancelled` (sync)."""

    execution_id: int


class Reply(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Reply to a HandlerRequest with JSON, or with an error: its class, message and hint."""

    request_id: int
    body: bytes
    error: tuple[str, str, str | None] | None = None


class Stop(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Exit: there are no more tasks."""


class Peek(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Reply with the stacks of this execution, while it goes on."""

    peek_id: int
    execution_id: int


# ----------------------------------------------------------------------------------- from a worker


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The app is imported, and has handlers for these kinds."""

    kinds: list[KindDeclared]
    declarations: bytes = b"{}"
    """What else the app declares for the database: a JSON object of lists, such as "schedules"."""
    stack_dump: tuple[int, int] | None = None
    """The signal that makes the worker write its stacks even while C code holds the GIL, and its
    descriptor of the file that they go to."""


class ImportFailed(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The app cannot be imported. A fork server sends this as well."""

    error: str
    traceback: str


class Outcomes(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Some tasks ended."""

    outcomes: list[Completed | Failed]


class Recalled(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Reply to a Recall: these had not started, and will not start here.

    Each element is the first of some consecutive execution ids, and their number.
    """

    executions: list[tuple[int, int]]


class HandlerRequest(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """A handler asks the scheduler; `body` is JSON. `request_id` 0: it expects no reply."""

    request_id: int
    execution_id: int
    verb: str
    body: bytes


class Unfit(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """Assign no more tasks: this worker should be replaced."""

    reason: str


class Peeked(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """Reply to a Peek: the stacks of the handler, and a sentence if there are none."""

    peek_id: int
    stacks: list[Stack]
    remark: str = ""


# ------------------------------------------------------------------------------ from a fork server


class Preloaded(msgspec.Struct, array_like=True, frozen=True, tag=0):
    """The app is imported, and workers can be forked from this process."""


class Unforkable(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """The app is imported, but a fork of this process would not work."""

    reason: str


class Forked(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """A worker has started, and the peer is its parent."""

    pid: int


class NotForked(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The system refused to start the process of the requested worker."""

    error: str


ToWorker = Begin | Assign | Recall | Cancel | Reply | Stop | Peek
ToParent = Hello | ImportFailed | Outcomes | Recalled | HandlerRequest | Unfit | Peeked
FromForkServer = Preloaded | ImportFailed | Unforkable | Forked | NotForked

_encoder = msgspec.msgpack.Encoder()
to_worker: Final = msgspec.msgpack.Decoder(ToWorker)
to_parent: Final = msgspec.msgpack.Decoder(ToParent)
from_fork_server: Final = msgspec.msgpack.Decoder(FromForkServer)


def encode(message: ToWorker | ToParent | FromForkServer) -> bytes:
    """Return the message with its header: a mark and its length, 4 bytes each, network order."""
    body = _encoder.encode(message)
    return HEADER.pack(_MARK, len(body)) + body


def split(buffer: bytearray) -> Iterator[bytes]:
    """Take the complete messages off the front of `buffer`, and yield them without their headers.

    What is left of the buffer waits for more bytes. Raises `msgspec.DecodeError` when the next
    bytes are not a message.
    """
    start = 0
    try:
        while len(buffer) - start >= HEADER.size:
            mark, length = HEADER.unpack_from(buffer, start)
            if mark != _MARK:
                raise msgspec.DecodeError("the bytes received are not a message")
            end = start + HEADER.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as whole:  # a slice of the buffer itself would be a second copy
                body = bytes(whole[start + HEADER.size : end])
            start = end
            yield body
    finally:  # also when the caller takes only the first message
        del buffer[:start]
