"""From what a handler did to what its parent is told."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import PydanticSerializationError, to_jsonable_python

from peers.errors import Reject, ResultInvalid, Retry, Snooze, seconds_until_retry
from peers.protocol.messages import AssignedTask, Completed, Failed
from peers.signatures import bytes_without_form
from peers.types import JSON_MAX_BYTES
from peers.worker.describe import clean, describe
from peers.worker.fitness import is_exhausted

_LONGEST_REASON: Final = 1_000

# Postgres refuses what is nested too deeply for its stack with an error that tells of no row.
_DEEPEST: Final = 1000
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]')
# an odd number of backslashes: an even one is text that only looks like it
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_LONE_SURROGATE: Final = re.compile(
    r"(?<!\\)(?:\\\\)*(?:\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f])"
)


def _plain(value: object) -> Any:
    """Dates, UUIDs, dataclasses, models … become what args of these types are read from."""
    if isinstance(value, bytes | bytearray | memoryview | set | frozenset | Iterator):
        raise TypeError(f"{type(value).__name__} has no form in JSON that leads back to it")
    complaint = _complaint_about(type(value))  # type: ignore[arg-type]  # a class is hashable
    if complaint is not None:
        raise TypeError(f"{type(value).__name__}: {complaint}")
    return to_jsonable_python(value, bytes_mode="base64")


@functools.lru_cache(maxsize=1000)
def _complaint_about(kind: type) -> str | None:
    """Return why no result of this class can be kept, whatever is in it at the time."""
    schema = getattr(kind, "__pydantic_core_schema__", None)
    return next(bytes_without_form(schema, base64=False), None)


_encode_json: Final = json.JSONEncoder(
    allow_nan=False, separators=(",", ":"), default=_plain
).encode


def completed(task: AssignedTask, seconds: float, result: Any) -> Completed:
    """The outcome of a handler that returned `result`.

    Raises `ResultInvalid` when it is not JSON, or too large, or nothing that jsonb can hold; and
    what the result's own methods raise.
    """
    if result is None:
        return Completed(task.execution_id, seconds, b"null")
    try:
        if type(result) is int:  # as many are; an encoder takes its time to set up
            return Completed(task.execution_id, seconds, str(result).encode())
        text = _encode_json(result)
    except (TypeError, ValueError, RecursionError, PydanticSerializationError) as error:
        reason = clean(str(error), _LONGEST_REASON)
        raise ResultInvalid(f"the result of {task.kind} is not JSON: {reason}") from None
    if text.count("[") + text.count("{") > _DEEPEST and _depth(text) > _DEEPEST:
        raise ResultInvalid(f"the result of {task.kind} is nested more than {_DEEPEST} levels deep")
    if "\\u" in text:
        _refuse_odd_characters(task, text)
    body = text.encode()
    if len(body) > JSON_MAX_BYTES:
        raise ResultInvalid(
            f"the result of {task.kind} has {len(body)} bytes, at most {JSON_MAX_BYTES} are kept; "
            "store it elsewhere and return a reference"
        )
    return Completed(task.execution_id, seconds, body)


def _depth(text: str) -> int:
    """Return how deep lists and objects are nested in a JSON text."""
    deepest = depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        if found[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in "]}":
            depth -= 1
    return deepest


def _refuse_odd_characters(task: AssignedTask, text: str) -> None:
    if "\\u0000" in text and _NUL.search(text):
        raise ResultInvalid(
            f"the result of {task.kind} contains a NUL character, which jsonb cannot hold"
        )
    if "\\ud" in text and _LONE_SURROGATE.search(text):
        raise ResultInvalid(
            f"the result of {task.kind} contains half a character (a lone surrogate), which jsonb "
            "cannot hold"
        )


def failed(task: AssignedTask, seconds: float, error: BaseException) -> Failed:
    """The outcome of a handler that raised `error`, or whose args or result did not fit.

    Raises nothing, whatever the error is.
    """
    told = describe(error)
    retry_in, complaint = _retry_in(error)
    return Failed(
        execution_id=task.execution_id,
        seconds=seconds,
        error_type=told.error_type,
        error_message=told.message + complaint,
        traceback=told.traceback,
        retry_in=retry_in,
        reject=issubclass(type(error), Reject),
        exhausted=is_exhausted(error),
        snooze=issubclass(type(error), Snooze),
    )


def _retry_in(error: BaseException) -> tuple[float | None, str]:
    """Return after how many seconds to try again, and a complaint about them.

    Retry refuses what is no such time, but its attribute may have been set afterwards.
    """
    if not issubclass(type(error), Retry):
        return None, ""
    try:
        return seconds_until_retry(error.in_), ""  # type: ignore[attr-defined]  # it is a Retry
    except BaseException:  # noqa: BLE001  # a property, or a number that has a will of its own
        return None, " (its in_ was set to what is no time; the backoff of the kind counts)"


def stopped(task: AssignedTask, seconds: float, traceback: str | None = None) -> Failed:
    """The outcome of a task that somebody cancelled."""
    return Failed(task.execution_id, seconds, "cancelled", "stopped on request", traceback)
