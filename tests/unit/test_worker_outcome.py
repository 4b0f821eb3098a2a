"""From what a handler did to what its parent is told."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from peers.errors import Reject, ResultInvalid, Retry, Snooze
from peers.worker.assigned import AssignedTask
from peers.worker.outcome import completed, failed

TASK = AssignedTask(7, 1, b"token", 1, "kind", b"{}", None)


def caught(error: BaseException) -> BaseException:
    """The error with a traceback."""
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001  # any will do
        return raised


@pytest.mark.parametrize(
    "result",
    [None, 0, "text", "\u2603 \\u0000", "\\", "a\\\\u0000", [], {"a": [1, None, True]}, 1e300],
)
def test_json_is_kept_as_it_is(result: Any) -> None:
    """Whatever json can read back."""
    assert json.loads(completed(TASK, 0.1, result).results) == [result]


@pytest.mark.parametrize(
    "result", [float("nan"), float("inf"), {1, 2}, object(), b"bytes", "\0", "\\\0", {"k\0": 1}]
)
def test_what_jsonb_cannot_hold_is_refused(result: Any) -> None:
    """With the kind's name."""
    with pytest.raises(ResultInvalid, match="the result of kind"):
        completed(TASK, 0.1, result)


def test_a_result_that_contains_itself_is_refused() -> None:
    """So is one that is nested too deeply."""
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    for result in (loop, deep):
        with pytest.raises(ResultInvalid):
            completed(TASK, 0.1, result)
    while deep:  # else the interpreter unravels it recursively
        deep = deep[0]


def test_the_size_counts_in_bytes_of_json() -> None:
    """1 MiB is kept, one byte more is not, and the remedy is named."""
    assert len(completed(TASK, 0.1, "x" * ((1 << 20) - 2)).results) == (1 << 20) + 2
    with pytest.raises(ResultInvalid, match="store it elsewhere"):
        completed(TASK, 0.1, "x" * ((1 << 20) - 1))


@pytest.mark.parametrize(
    ("bad", "what"), [("a\0", "a NUL character"), ("\ud800", "half a character")]
)
def test_a_text_that_jsonb_cannot_hold_is_named(bad: str, what: str) -> None:
    """By its path in the result, if it has one."""
    for result, where in (
        ({"rows": [{"name": bad}]}, r" at result\.rows\[0\]\.name"),
        (bad, ""),
        ({bad: 1}, ""),
    ):
        with pytest.raises(ResultInvalid, match=rf"contains {what}.*{where}, which jsonb") as told:
            completed(TASK, 0.1, result)
        told.value.message.encode()


def test_retry_and_reject_say_what_they_want() -> None:
    """Seconds or a timedelta; other errors say nothing."""
    assert failed(TASK, 0.1, caught(Retry(in_=3))).retry_in == 3
    assert failed(TASK, 0.1, caught(Retry(in_=timedelta(minutes=1)))).retry_in == 60
    assert failed(TASK, 0.1, caught(Retry())).retry_in is None
    assert failed(TASK, 0.1, caught(Reject("no"))).reject
    snoozed = failed(TASK, 0.1, caught(Snooze(in_=3)))
    assert (snoozed.retry_in, snoozed.snooze) == (3, True)
    assert not failed(TASK, 0.1, caught(Retry(in_=3))).snooze
    ordinary = failed(TASK, 0.1, caught(ValueError("no")))
    assert (ordinary.retry_in, ordinary.reject) == (None, False)


def test_a_text_is_one_that_postgres_takes() -> None:
    """No NUL, no lone surrogate; of a very long one the end."""
    told = failed(TASK, 0.1, caught(ValueError("a\0b\ud800" + "x" * 100_000 + "the end")))
    assert "\0" not in told.error_message
    told.error_message.encode()
    assert told.error_message.endswith("the end")
    assert len(told.error_message) < 10_000


def test_the_type_is_named_as_it_is_imported() -> None:
    """Builtins and our own by their name alone."""
    assert failed(TASK, 0.1, caught(ValueError())).error_type == "ValueError"
    assert failed(TASK, 0.1, caught(Reject("x"))).error_type == "Reject"
    assert failed(TASK, 0.1, caught(json.JSONDecodeError("x", "", 0))).error_type == (
        "json.decoder.JSONDecodeError"
    )


class MuteError(Exception):
    """It cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_error_whose_text_raises_is_told_all_the_same() -> None:
    """By its type."""
    told = failed(TASK, 0.1, caught(MuteError()))
    assert told.error_type.endswith("MuteError")
