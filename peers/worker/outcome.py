"""Turn what a handler returned or raised into the outcome that the peer records."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from peers.errors import Reject, ResultInvalid, Retry, Snooze, seconds_until_retry
from peers.handlers import find
from peers.protocol.messages import Completed, Failed
from peers.types import JSON_MAX_BYTES
from peers.values import find_unwritable, jsonable, path_text
from peers.worker.assigned import AssignedTask
from peers.worker.describe import clean, describe
from peers.worker.exhaustion import is_exhausted

_LONGEST_REASON: Final = 1_000

# Postgres refuses JSON that is nested too deeply for its stack, and its error names no row.
_DEEPEST: Final = 1000
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{\]}]')
# after an even number of backslashes: after an odd number it is text that looks like an escape
_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_LONE_SURROGATE: Final = re.compile(
    r"(?<!\\)(?:\\\\)*(?:\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f])"
)


def _jsonable(value: object) -> Any:
    """Return JSON for dates, UUIDs, dataclasses, models and the like."""
    if isinstance(value, bytes | bytearray | memoryview | set | frozenset | Iterator):
        raise TypeError(
            f"{type(value).__name__} has no JSON form that can be read back; annotate what the "
            "handler returns"
        )
    if hasattr(type(value), "__pydantic_core_schema__"):
        from peers.values.pydantic_types import reason_against  # pydantic is there already

        kind: Any = type(value)
        reason = reason_against(kind)
        if reason is not None:
            raise TypeError(f"{type(value).__name__}: {reason}")
    return jsonable(value)


_encode_json: Final = json.JSONEncoder(
    allow_nan=False, separators=(",", ":"), default=_jsonable
).encode


def completed(task: AssignedTask, seconds: float, result: Any) -> Completed:
    """Return the outcome of a handler that returned `result`. Raises like `encode_result`."""
    return Completed(task.execution_id, seconds, b"[%b]" % encode_result(task.kind, result))


def encode_result(kind: str, result: Any) -> bytes:
    """Return what a handler of this kind returned, as JSON.

    Raises `ResultInvalid` when it does not fit its annotation, has no JSON form, is too large, or
    is something that jsonb cannot hold; and whatever the result's own methods raise.
    """
    handler = find(kind)
    if handler is not None:
        result = handler.dump_result(result)
    if result is None:
        return b"null"
    try:
        if type(result) is int:  # a frequent result, for which the encoder is slower
            return str(result).encode()
        text = _encode_json(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise ResultInvalid(f"the result of {kind} is not JSON: {_reason(result, error)}") from None
    if text.count("[") + text.count("{") > _DEEPEST and _depth(text) > _DEEPEST:
        raise ResultInvalid(f"the result of {kind} is nested more than {_DEEPEST} levels deep")
    if "\\u" in text:
        _refuse_bad_characters(kind, result, text)
    body = text.encode()
    if len(body) > JSON_MAX_BYTES:
        raise ResultInvalid(
            f"the result of {kind} may have at most {JSON_MAX_BYTES} bytes, not {len(body)}; "
            "store it elsewhere and return a reference"
        )
    return body


def _reason(result: Any, error: Exception) -> str:
    """Return why the result cannot be written, and where."""
    found = None if isinstance(error, RecursionError) else find_unwritable(result)
    if found is None or isinstance(error, TypeError):
        return clean(str(error), _LONGEST_REASON)
    path, reason = found
    return clean(f"{path_text('result', path)}: {reason}", _LONGEST_REASON)


def _depth(text: str) -> int:
    """Return how many levels of lists and objects a JSON text has."""
    deepest = depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        if found[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif found[0] in "]}":
            depth -= 1
    return deepest


def _refuse_bad_characters(kind: str, result: Any, text: str) -> None:
    for escape, expression, what in (
        ("\\u0000", _NUL, "a NUL character"),
        ("\\ud", _LONE_SURROGATE, "half a character (a lone surrogate)"),
    ):
        if escape in text and expression.search(text):
            found = find_unwritable(result)  # what is within a model, say, has no path
            where = "" if found is None or not found[0] else f" at {path_text('result', found[0])}"
            raise ResultInvalid(
                clean(
                    f"the result of {kind} contains {what}{where}, which jsonb cannot hold",
                    _LONGEST_REASON,
                )
            )


def failed(task: AssignedTask, seconds: float, error: BaseException) -> Failed:
    """Return the outcome of a handler that raised `error`, or whose args or result did not fit.

    Raises nothing, whatever the error is.
    """
    description = describe(error)
    retry_in, remark = _retry_in(error)
    return Failed(
        execution_id=task.execution_id,
        seconds=seconds,
        error_type=description.error_type,
        error_message=description.message + remark,
        traceback=description.traceback,
        retry_in=retry_in,
        reject=issubclass(type(error), Reject),
        exhausted=is_exhausted(error),
        snooze=issubclass(type(error), Snooze),
    )


def _retry_in(error: BaseException) -> tuple[float | None, str]:
    """Return the seconds until the next attempt, and a remark if they are invalid.

    Retry refuses invalid seconds, but its attribute may have been set afterwards.
    """
    if not issubclass(type(error), Retry):
        return None, ""
    try:
        return seconds_until_retry(error.in_), ""  # type: ignore[attr-defined]  # it is a Retry
    except BaseException:  # noqa: BLE001  # a property or a number of the user may raise anything
        return None, " (its in_ was set to an invalid time, so the backoff of the kind applies)"


def stopped(task: AssignedTask, seconds: float, traceback: str | None = None) -> Failed:
    """Return the outcome of a task that was cancelled while it ran."""
    return Failed(task.execution_id, seconds, "cancelled", "stopped on request", traceback)


def failed_async(
    task: AssignedTask, seconds: float, error: BaseException, *, limit: asyncio.Timeout | None,
    cancelled: bool,
) -> Failed:  # fmt: skip
    """Return the outcome of an async handler that raised, or that a timeout or a cancel stopped."""
    outcome = failed(task, seconds, error)
    if limit is not None and issubclass(type(error), TimeoutError) and limit.expired():
        message = f"ran longer than its timeout of {task.timeout:g} s"
        return Failed(task.execution_id, seconds, "timeout", message, outcome.traceback)
    if issubclass(type(error), asyncio.CancelledError) and cancelled:
        return stopped(task, seconds, outcome.traceback)
    return outcome
