"""Show the stacks that a worker sends, without the frames of Peers and of the thread's start."""

from __future__ import annotations

import asyncio
import concurrent.futures
import linecache
import re
import selectors
import threading
from collections.abc import Iterator, Sequence
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Final

from peers.protocol.messages import Frame, Stack

_PACKAGE: Final = Path(__file__).parents[1]
_BEFORE_THE_HANDLER: Final = (
    str(_PACKAGE / "worker"),
    str(_PACKAGE / "logs"),
    str(Path(asyncio.__file__).parent),
    str(Path(concurrent.futures.__file__).parent),
    selectors.__file__,
    threading.__file__,
    "<frozen ",
)
"""What calls a handler, or waits for the next one. A handler's own calls of these come later."""
_DUMPED_THREAD: Final = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+).*:$")
_DUMPED_FRAME: Final = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)$')
_LAST_FRAMES_OF_MAIN: Final = str(_PACKAGE / "worker" / "work.py")


def own_frames(stack: Stack) -> list[Frame]:
    """Return the frames from the handler's own first one on; none if no handler runs there."""
    return list(dropwhile(lambda frame: frame.file.startswith(_BEFORE_THE_HANDLER), stack.frames))


def innermost(stacks: Sequence[Stack]) -> str | None:
    """Return where the handler is: the innermost frame of the first stack that has one."""
    for stack in stacks:
        frames = own_frames(stack)
        if frames:
            last = frames[-1]
            return f"{last.function} ({last.file}:{last.line})"
    return None


def format_stacks(stacks: Sequence[Stack]) -> str:
    """Return the stacks as text, like tracebacks: the most recent call comes last."""
    parts = []
    for stack in stacks:
        frames = own_frames(stack)
        if frames:
            parts.append("\n".join([f"{stack.title}:", *_lines(stack, frames)]))
    return "\n\n".join(parts)


def _lines(stack: Stack, frames: list[Frame]) -> Iterator[str]:
    for frame, group in groupby(frames):  # a recursion repeats the same frame
        repeated = len(list(group))
        yield f'  File "{frame.file}", line {frame.line}, in {frame.function}'
        code = linecache.getline(frame.file, frame.line).strip()
        if code:
            yield f"    {code}"
        if repeated > 1:
            yield f"  [the same call {repeated - 1:,} more times]"
    if stack.omitted:
        yield f"  [{stack.omitted:,} calls in the middle are left out]"


def parse_dump(dump: str) -> list[Stack]:
    """Return the stacks of a dump that faulthandler wrote, the main thread's first."""
    found: list[tuple[str, list[Frame]]] = []
    for line in dump.splitlines():
        if thread := _DUMPED_THREAD.match(line):
            found.append((thread[1], []))
        elif (frame := _DUMPED_FRAME.match(line)) and found:
            number = int(frame[2]) if frame[2].isdecimal() else 0
            found[-1][1].insert(0, Frame(frame[1], number, frame[3]))
    stacks = []
    for name, frames in found:
        is_main = any(frame.file == _LAST_FRAMES_OF_MAIN for frame in frames) or not any(
            frame.file == threading.__file__ for frame in frames
        )
        stacks.append(Stack("main thread" if is_main else f"thread {name}", frames))
    return sorted(stacks, key=lambda stack: stack.title != "main thread")
