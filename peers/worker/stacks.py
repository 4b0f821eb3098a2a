"""Return the stacks of this worker's handlers while they go on.

The reader thread collects them when the peer asks. It needs the GIL for that. While C code holds
the GIL, the peer sends a signal instead, and faulthandler writes the stacks from its C handler.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from peers.protocol.messages import Frame, Stack
from peers.worker.handler_call import HandlerCall, MarkedCoroutine

_STACKS_MAX: Final = 50
_OUTERMOST: Final = 20
_INNERMOST: Final = 80
_TEXT_MAX: Final = 500
_SIGNALS: Final = range(signal.SIGRTMAX - 5, signal.SIGRTMAX)
"""Realtime signals that programs rarely use. The first one that is free is taken."""


def register_stack_dump() -> tuple[int, int] | None:
    """Let a signal write the stacks of all threads to a file in memory.

    Return the signal and the descriptor. Return None if the app uses all of these signals: its own
    handlers stay.
    """
    try:
        number = next(each for each in _SIGNALS if not _is_used(each))
        fd = os.memfd_create("peers-stacks", os.MFD_CLOEXEC)
        # the peer truncates the file before each dump
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        faulthandler.register(number, file=fd, all_threads=True, chain=False)
    except (OSError, StopIteration, RuntimeError, ValueError):
        return None
    return number, fd


def _is_used(number: int) -> bool:
    """Return whether this process catches or ignores a signal. A C library may do so, too."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, mask = line.partition(":")
        if name in ("SigCgt", "SigIgn") and int(mask, 16) >> (number - 1) & 1:
            return True
    return False


def thread_stacks() -> list[Stack]:
    """Return the stack of each thread except the one that calls this; the main thread comes first.

    A handler may have started threads.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main, own = threading.main_thread().ident, threading.get_ident()
    frames = sys._current_frames()  # noqa: SLF001  # documented, despite its name
    found = sorted(frames.items(), key=lambda each: each[0] != main)
    return [
        _stack("main thread" if ident == main else f"thread {names.get(ident, ident)}", _outer(top))
        for ident, top in found
        if ident != own
    ][:_STACKS_MAX]


def coroutine_stacks(loop: asyncio.AbstractEventLoop, call: HandlerCall) -> list[Stack]:
    """Return the stack of each asyncio task that runs for a handler call, the handler's first."""
    tasks = [task for task in asyncio.all_tasks(loop) if getattr(task, "call", None) is call]
    tasks.sort(key=lambda task: (task is not call.main, task.get_name()))
    return [
        _stack(
            "the handler's coroutine"
            if task is call.main
            else f"asyncio task {task.get_name()} of the handler",
            _awaited(task.get_coro()),
        )
        for task in tasks[:_STACKS_MAX]
    ]


def _outer(top: FrameType) -> list[FrameType]:
    """Return a frame and its callers, the outermost first."""
    frames = [frame for frame, _ in traceback.walk_stack(top)]
    frames.reverse()
    return frames


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frame of a coroutine, of what it awaits, and so on."""
    seen: set[int] = set()
    while coroutine is not None and id(coroutine) not in seen:
        seen.add(id(coroutine))
        if isinstance(coroutine, MarkedCoroutine):
            coroutine = coroutine._coroutine  # noqa: SLF001  # ours
            continue
        following = None
        for prefix, awaits in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(coroutine, f"{prefix}_frame", None)
            if isinstance(frame, FrameType):
                yield frame
                following = getattr(coroutine, f"{prefix}_{awaits}", None)
                break
        coroutine = following


def _stack(title: str, frames: Iterable[FrameType]) -> Stack:
    found = [
        Frame(_text(frame.f_code.co_filename), frame.f_lineno or 0, _text(frame.f_code.co_qualname))
        for frame in frames
    ]
    omitted = max(0, len(found) - _OUTERMOST - _INNERMOST)
    if omitted:
        found = found[:_OUTERMOST] + found[-_INNERMOST:]
    return Stack(_text(title), found, omitted)


def _text(text: str) -> str:
    """Return a text that can be encoded, and is not too long."""
    return text[:_TEXT_MAX].encode(errors="backslashreplace").decode()
