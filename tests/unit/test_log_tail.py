"""The end of a log: 64 KiB of whole characters, whatever was printed."""

from __future__ import annotations

import random

import pytest

from peers.pool.log_tail import KEPT_BYTES, LogTail


def tail_of(*texts: bytes) -> LogTail:
    """A log that was printed like this."""
    tail = LogTail()
    for text in texts:
        tail.append(text)
    return tail


def test_a_short_log_is_whole() -> None:
    """Nothing is cut before the limit, and the limit itself is no cut."""
    kept = tail_of(b"one\n", "zwei ü\n".encode()).read()
    assert kept == ("one\nzwei ü\n", 12)
    assert not kept.is_cut
    assert not tail_of(b"x" * KEPT_BYTES).read().is_cut


@pytest.mark.parametrize("character", ["x", "ü", "漢", "🎈"])
@pytest.mark.parametrize("shift", range(1, 5))
def test_a_long_log_is_cut_between_two_characters(character: str, shift: int) -> None:
    """Wherever the last 64 KiB begin: as few bytes as possible are missing, and none is garbage."""
    text = "a" * shift + character * KEPT_BYTES
    kept = tail_of(text.encode()).read()
    assert kept.is_cut
    assert kept.size == len(text.encode())
    assert set(kept.text) == {character}
    assert KEPT_BYTES - 4 < len(kept.text.encode()) <= KEPT_BYTES


def test_what_is_kept_is_bounded_and_does_not_depend_on_the_pieces() -> None:
    """A log in any pieces has the same end; memory stays within twice the limit and a piece."""
    text = "".join(f"line {number} é\n" for number in range(30_000)).encode()
    pieces, rest = [], text
    dice = random.Random(1)
    while rest:
        size = dice.randint(1, 5_000)
        pieces.append(rest[:size])
        rest = rest[size:]
    tail = LogTail()
    for piece in pieces:
        tail.append(piece)
        assert len(tail._kept) <= 2 * KEPT_BYTES
    assert tail.read() == tail_of(text).read()
    assert tail.read().text.endswith("line 29999 é\n")


def test_what_no_database_stores_is_escaped() -> None:
    """NUL, bytes that are no UTF-8, and half a character at the end of a killed program."""
    tail = LogTail()
    tail.append(b"a\0b\n")
    tail.append_raw(b"\xff\xfe \xe6\xbc")
    tail.append_raw(b"\xa2 ok\n")
    assert tail.read().text == "a\\0b\n\\xff\\xfe 漢 ok\n"
    assert tail_of(b"a" + "ü".encode()[:1]).read() == ("a", 1)  # the rest may still come
    assert tail_of(b"\x1b[31mred\x1b[0m").read().text == "\x1b[31mred\x1b[0m"


def test_a_progress_bar_does_not_push_the_rest_out() -> None:
    """What is overwritten on a terminal counts once; its last state stays."""
    tail = tail_of(b"begin\n")
    for done in range(10_000):
        tail.append(b"\r%5d of 10000" % done)
    tail.append(b"\ndone\r\n")
    assert tail.read().text == "begin\n 9999 of 10000\ndone\n"
    assert tail.size == len(tail.read().text)


def test_the_size_finds_what_a_reader_has_seen() -> None:
    """The bytes behind those of the last complete line that it has seen are new, and only those."""
    dice, tail = random.Random(2), LogTail()
    seen, read = 0, ""
    lines = [f"{number} {'é' * dice.randint(0, 40)}" for number in range(2_000)]
    for line in lines:
        tail.append(f"bar\r{line}".encode())
        tail.append(b"\n" if dice.random() < 0.8 else b"\r\n")
        tail.append(b"half a bar")
        if dice.random() < 0.1:
            text = tail.read()
            start = text.size - len(text.text.encode())
            new = text.text.encode()[seen - start :]
            complete = new[: new.rfind(b"\n") + 1]
            read += complete.decode()
            seen += len(complete)
        tail.append(b"\r")
    assert lines[: read.count("\n")] == read.splitlines()
    assert read.count("\n") > 1_900
