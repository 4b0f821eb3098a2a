"""The output pipe: frames of handlers, and what their programs print between them."""

from __future__ import annotations

import random
import select

import pytest

from peers.protocol import output
from peers.protocol.output import Output, OutputParser


def parsed(pieces: list[bytes]) -> list[Output]:
    """What the parser finds, with the text of neighbours joined."""
    parser = OutputParser()
    return joined([each for piece in pieces for each in parser.feed(piece)])


@pytest.mark.parametrize("seed", range(20))
def test_any_pieces_give_the_same_parts(seed: int) -> None:
    """Frames and plain text alternate; the pipe cuts them anywhere."""
    dice = random.Random(seed)
    expected, stream = [], b""
    for number in range(1, 30):
        expected.append(Output(number, 3, b""))
        stream += output.begin(number, 3)
        expected.append(Output(number, 0, dice.randbytes(dice.randint(1, 10_000))))
        stream += b"".join(output.frames(number, expected[-1].text))
        expected.append(Output(None, 0, b"\x00\x1bpee" + dice.randbytes(dice.randint(1, 9_000))))
        stream += expected[-1].text
    stream += output.begin(99, 1)
    pieces = []
    while stream:
        size = dice.choice((1, 7, 100, 5_000))
        pieces.append(stream[:size])
        stream = stream[size:]
    assert parsed(pieces) == [*joined(expected), Output(99, 1, b"")]


def joined(parts: list[Output]) -> list[Output]:
    """A text that follows the beginning of its own call belongs to that part."""
    found: list[Output] = []
    for each in parts:
        if found and not each.span and found[-1].execution_id == each.execution_id:
            found[-1] = found[-1]._replace(text=found[-1].text + each.text)
        else:
            found.append(each)
    return found


def test_a_frame_fits_into_one_write() -> None:
    """So that the kernel does not mix it with what other programs write."""
    assert all(len(frame) <= select.PIPE_BUF for frame in output.frames(1, b"x" * 100_000))
    assert len(output.begin(1, 1)) < select.PIPE_BUF
