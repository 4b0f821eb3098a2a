"""From what a handler did to what its parent is told."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from peers.errors import PeersError, Reject, ResultInvalid, Retry
from peers.frames import Assigned, Completed, Failed
from peers.model import JSON_MAX_BYTES

_LONGEST_MESSAGE: Final = 8_000
_LONGEST_TRACEBACK: Final = 64_000

# an odd number of backslashes: an even one is text that only looks like it
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _plain(value: object) -> Any:
    """Dates, UUIDs, dataclasses, models … become what args of these types are read from."""
    if isinstance(value, bytes | bytearray | memoryview | set | frozenset | Iterator):
        raise TypeError(f"{type(value).__name__} has no form in JSON that leads back to it")
    return to_jsonable_python(value)


_encode_json: Final = json.JSONEncoder(
    allow_nan=False, separators=(",", ":"), default=_plain
).encode


def completed(task: Assigned, seconds: float, result: Any) -> Completed:
    """The outcome of a handler that returned `result`.

    Raises `ResultInvalid` when it is not JSON, or too large, or nothing that jsonb can hold.
    """
    if result is None:
        return Completed(task.ticket, seconds, b"null")
    if type(result) is int:  # as many are; an encoder takes its time to set up
        return Completed(task.ticket, seconds, str(result).encode())
    try:
        text = _encode_json(result)
    except (TypeError, ValueError, RecursionError, PydanticSerializationError) as error:
        raise ResultInvalid(f"the result of {task.kind} is not JSON: {error}") from None
    if "\\u0000" in text and _NUL.search(text):
        raise ResultInvalid(
            f"the result of {task.kind} contains a NUL character, which jsonb cannot hold"
        )
    body = text.encode()
    if len(body) > JSON_MAX_BYTES:
        raise ResultInvalid(
            f"the result of {task.kind} has {len(body)} bytes, at most {JSON_MAX_BYTES} are kept; "
            "store it elsewhere and return a reference"
        )
    return Completed(task.ticket, seconds, body)


def failed(task: Assigned, seconds: float, error: BaseException) -> Failed:
    """The outcome of a handler that raised `error`, or whose args or result did not fit."""
    return Failed(
        ticket=task.ticket,
        seconds=seconds,
        error_type=_type_name(error),
        error_message=_clean(_message_of(error), _LONGEST_MESSAGE),
        traceback=_clean(_traceback_of(error), _LONGEST_TRACEBACK),
        retry_in=error.in_ if isinstance(error, Retry) else None,
        reject=isinstance(error, Reject),
    )


def stopped(task: Assigned, seconds: float, traceback: str | None = None) -> Failed:
    """The outcome of a task that somebody cancelled."""
    return Failed(task.ticket, seconds, "cancelled", "stopped on request", traceback)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    if isinstance(error, PeersError) or kind.__module__ == "builtins":
        return kind.__name__
    return f"{kind.__module__}.{kind.__qualname__}"


def _message_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # an error that cannot say what it is is still a failure
        return f"an error of type {_type_name(error)}, whose text cannot be had"


def _traceback_of(error: BaseException) -> str:
    """The traceback from the handler on: the frames of the worker itself say nothing."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(
        "peers.worker"
    ):
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _clean(text: str, longest: int) -> str:
    """Something that a text column takes; of a long text the end, which says most."""
    if len(text) > longest:
        text = "…" + text[-longest:]
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
