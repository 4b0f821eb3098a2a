"""Convert the stored args of tasks to the values that their handlers take."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec

from peers.handlers import find, registry
from peers.worker.assigned import AssignedTask, Run

_AT_ONCE_MAX_BYTES: Final = 1 << 20
"""Of JSON: Python's objects for it take several times as much."""


def load_args(task: AssignedTask) -> Any:
    """Return the args as the handler's annotations say. Raises `ArgsInvalid`."""
    return _load(task.kind, task.args)


def args_of(run: Run) -> Callable[[int], Any]:
    """Return a function that returns the args of a task of this run, once.

    It does not run user code and does not raise. The function that it returns may do both, like
    `load_args`. The args of quick tasks are decoded and checked all at once.
    """
    kind, is_one_kind = run.kinds[0], len(run.kinds) == 1
    try:
        decoded = msgspec.json.decode(run.args) if len(run.args) <= _AT_ONCE_MAX_BYTES else None
    except msgspec.MsgspecError:
        decoded = None
    if decoded is None:
        return lambda index: _load(run.kind(index), run.args_of_each[index])
    data: list[Any] = decoded
    handler = find(kind)
    if is_one_kind and handler is not None and handler.takes_all_as_they_are(data):
        return data.__getitem__
    return lambda index: registry()[run.kind(index)].load_args(data[index])


def _load(kind: str, args: bytes) -> Any:
    try:
        data = msgspec.json.decode(args)
    except msgspec.MsgspecError:  # jsonb holds numbers that no double can hold
        data = json.loads(args)
    return registry()[kind].load_args(data)
