"""Shorten the traceback of an app that cannot be imported to the app's own frames."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Final

_IMPORTLIB: Final = (str(Path(importlib.__file__ or "").parent), "<frozen importlib")
_WORKER: Final = Path(__file__).parent
_BEFORE_THE_APP: Final = (*_IMPORTLIB, str(_WORKER), str(_WORKER.with_name("handlers.py")))


def keep_own_frames(error: BaseException) -> bool:
    """Remove the frames before the app's own from the traceback, and those of nested imports.

    Return whether there is something left to show. Nothing is left for a module that does not
    exist. A SyntaxError names a place even without frames.
    """
    seen: set[int] = set()
    chain: BaseException | None = error
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        chain.__traceback__ = _own(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    return error.__traceback__ is not None or isinstance(error, SyntaxError)


def _own(frames: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith(_IMPORTLIB if kept else _BEFORE_THE_APP):
            kept.append(frames)
        frames = frames.tb_next
    if not kept:
        return None
    for frame, following in zip(kept, [*kept[1:], None], strict=True):
        frame.tb_next = following
    return kept[0]
