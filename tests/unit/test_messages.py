"""The messages between a peer and its workers."""

from __future__ import annotations

import msgspec
import pytest

from peers.protocol.messages import (
    HEADER,
    Assign,
    AssignedRun,
    Begin,
    Cancel,
    Completed,
    Failed,
    HandlerRequest,
    Hello,
    ImportFailed,
    KindDeclared,
    Outcomes,
    Recall,
    Recalled,
    Reply,
    Stop,
    ToParent,
    ToWorker,
    encode,
    split,
    to_parent,
    to_worker,
)

TO_WORKER: list[ToWorker] = [
    Begin(asynchronous=True),
    Assign(
        [
            AssignedRun(1, 2, b"t", b"ids", (3,), ("kind",), (0.5,), b'[{"x": "\xc3\xbc"},{}]'),
            AssignedRun(3, 2, b"u", b"ids", (1, 2), ("k", "l"), (None, 1.5), b"[{},{}]"),
        ],
        queue="default",
        slots=3,
    ),
    Recall(),
    Cancel(7),
    Reply(1, b"[1]", None),
    Reply(2, b"null", ("BadGraph", "why there is none", None)),
    Stop(),
]
TO_PARENT: list[ToParent] = [
    Hello([KindDeclared("kind", False, 5, None, 1.0, 3600.0)]),
    ImportFailed("ImportError: x", "traceback"),
    Outcomes(
        [
            Completed(1, 0.25, b'[{"a": 1},2]', 2),
            Failed(3, 0.5, "ValueError", "no", "tb", 1.5, True),
        ]
    ),
    Recalled([(1, 3), (7, 1)]),
    HandlerRequest(0, 1, "progress", b"{}"),
]


def test_every_message_is_decoded_as_it_was_encoded() -> None:
    """In both directions, with bytes and None."""
    for to_a_worker in TO_WORKER:
        [body] = split(bytearray(encode(to_a_worker)))
        assert to_worker.decode(body) == to_a_worker
    for to_the_parent in TO_PARENT:
        [body] = split(bytearray(encode(to_the_parent)))
        assert to_parent.decode(body) == to_the_parent


def test_messages_may_come_in_any_pieces() -> None:
    """A stream cut at every byte gives the same messages, and leaves nothing behind."""
    stream = b"".join(map(encode, TO_WORKER))
    buffer = bytearray()
    seen = []
    for number in stream:
        buffer.append(number)
        seen += [to_worker.decode(body) for body in split(buffer)]
    assert seen == TO_WORKER
    assert buffer == b""


def test_taking_only_the_first_message_leaves_exactly_the_others() -> None:
    """Leaving the iteration early neither loses a message nor yields one twice."""
    buffer = bytearray(encode(Begin(False)) + encode(Stop()) + encode(Recall())[:3])
    for body in split(buffer):
        assert to_worker.decode(body) == Begin(False)
        break
    assert [to_worker.decode(body) for body in split(buffer)] == [Stop()]
    assert len(buffer) == 3


def test_what_is_not_a_message_is_an_error_of_one_type() -> None:
    """Garbage, an unknown tag and a message for the other direction alike."""
    for body in (b"\xc1", b"\x91\x63", b"", split_one(TO_WORKER[1])):
        with pytest.raises(msgspec.MsgspecError):
            to_parent.decode(body)


@pytest.mark.parametrize("garbage", [b"some text for a wrong descriptor", b"\0" * 8, b"\xff" * 64])
def test_bytes_that_are_not_a_message_are_noticed_at_once(garbage: bytes) -> None:
    """They are not taken for a length to wait for; the messages before them are read."""
    buffer = bytearray(encode(Stop()) + garbage)
    messages = split(buffer)
    assert to_worker.decode(next(messages)) == Stop()
    with pytest.raises(msgspec.DecodeError):
        next(messages)


def split_one(message: ToWorker) -> bytes:
    """Its body, without the header."""
    return encode(message)[HEADER.size :]
