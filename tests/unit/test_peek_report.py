"""The text of a peek: bounded, storable, and without the frames of Peers."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from peers.peer.peek_report import bounded
from peers.pool.stacks import format_stacks, innermost, own_frames, parse_dump
from peers.protocol.messages import Frame, Stack
from peers.types import PEEK_REPORT_MAX_BYTES

PACKAGE = Path(__file__).parents[2] / "peers"
STARTS = [
    Frame("<frozen runpy>", 198, "_run_module_as_main"),
    Frame(str(PACKAGE / "worker" / "work.py"), 30, "work"),
    Frame(str(PACKAGE / "worker" / "loop_sync.py"), 180, "_run"),
]
OWN = [Frame("/srv/shop/tasks.py", 12, "build"), Frame(threading.__file__, 320, "Condition.wait")]


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u65e5", "\U0001f389", "\udcff", "\0"])
@pytest.mark.parametrize("shift", range(4))
def test_a_text_is_cut_between_characters(letter: str, shift: int) -> None:
    """To 64 KiB of UTF-8, whatever the characters are."""
    text = bounded("x" * shift + letter * 70_000)
    data = text.encode()
    assert PEEK_REPORT_MAX_BYTES - 10 < len(data) <= PEEK_REPORT_MAX_BYTES
    assert text.endswith("[cut at 64 KiB]")
    assert "\0" not in text
    assert bounded("short") == "short"


def test_a_stack_begins_with_the_handler() -> None:
    """What the handler calls is shown, also in modules that start threads."""
    stack = Stack("main thread", STARTS + OWN)
    assert own_frames(stack) == OWN
    assert innermost([stack]) == f"Condition.wait ({threading.__file__}:320)"
    text = format_stacks([stack, Stack("thread reader", STARTS)])
    assert text.startswith('main thread:\n  File "/srv/shop/tasks.py", line 12, in build\n')
    assert "reader" not in text


def test_a_recursion_is_one_line() -> None:
    """And frames that the worker has left out are counted."""
    text = format_stacks([Stack("main thread", [OWN[0]] * 40, 900)])
    assert text.count("tasks.py") == 1
    assert "[the same call 39 more times]" in text
    assert "[900 calls in the middle are left out]" in text


def test_a_dump_of_faulthandler_is_read() -> None:
    """It has the most recent call first, and the main thread anywhere."""
    dump = (
        "Thread 0x00007f01 (most recent call first):\n"
        f'  File "{threading.__file__}", line 320 in wait\n'
        f'  File "{threading.__file__}", line 975 in run\n\n'
        "Current thread 0x00007f02 (most recent call first):\n"
        '  File "/srv/a b/tasks.py", line 7 in in deep\n'
        '  File "/srv/a b/tasks.py", line ??? in build\n'
        f'  File "{PACKAGE}/worker/work.py", line 30 in work\n  ...\n'
    )
    main, other = parse_dump(dump)
    assert (main.title, other.title) == ("main thread", "thread 0x00007f01")
    assert own_frames(main) == [
        Frame("/srv/a b/tasks.py", 0, "build"), Frame("/srv/a b/tasks.py", 7, "in deep"),
    ]  # fmt: skip
    assert own_frames(other) == []
    assert parse_dump("garbage\n\x00") == []
