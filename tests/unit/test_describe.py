"""Whatever a handler raises or returns, its parent is told exactly one outcome, within bounds."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.context import CurrentTask
from peers.errors import Retry
from peers.handlers import Handler, register
from peers.protocol.messages import (
    Completed,
    Failed,
    Outcomes,
    encode,
    split,
    to_parent,
)
from peers.worker.assigned import AssignedTask
from peers.worker.batch import Batch, Part
from peers.worker.describe import LONGEST_MESSAGE, LONGEST_TRACEBACK, LONGEST_TYPE, describe
from peers.worker.outcome import completed, failed

TASK = AssignedTask(7, 1, b"token", 1, "kind", b"{}", None)
LARGE = 100 << 20


STOPS = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
NO_TIMES: list[Any] = [
    float("inf"), float("nan"), -1, -0.1, "soon", Decimal("NaN"), Decimal("Infinity"), 10**400,
    timedelta.max, timedelta(days=366), timedelta(seconds=-1),
]  # fmt: skip


def caught(error: BaseException) -> BaseException:
    """The error with a traceback."""
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001  # any will do
        return raised


def assert_told(error: BaseException) -> Failed:
    """The failure, once it has come through to the parent as something that a text column takes."""
    outcome = failed(TASK, 0.1, error)
    [body] = split(bytearray(encode(Outcomes([outcome]))))
    message = to_parent.decode(body)
    assert isinstance(message, Outcomes)
    [told] = message.outcomes
    assert isinstance(told, Failed)
    for text, longest in (
        (told.error_type, LONGEST_TYPE),
        (told.error_message, LONGEST_MESSAGE + 200),
        (told.traceback or "", LONGEST_TRACEBACK),
    ):
        assert len(text) <= longest + 1
        assert "\0" not in text
        text.encode()
    assert told.error_type
    return told


def _raising(what: type[BaseException]) -> Callable[..., Any]:
    def method(*_: object) -> Any:
        raise what("from within")

    return method


def _class(**members: Any) -> type[Exception]:
    return type("OddError", (Exception,), members)


class _LyingMeta(type):
    """Its classes have no name and no module that can be asked for."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__", "__name__"):
            raise SystemExit
        return super().__getattribute__(name)


class _OddText(str):
    """A text that says nothing true of itself."""

    def __len__(self) -> int:
        raise RuntimeError

    def __getitem__(self, _: object) -> str:
        raise RuntimeError

    def replace(self, *_: object) -> str:
        raise SystemExit

    def encode(self, *_: object) -> bytes:
        raise KeyboardInterrupt


def _circle(link: str) -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    setattr(first, link, second)
    setattr(second, link, first)
    return first


def _chain(length: int, link: str = "__cause__") -> BaseException:
    last: BaseException = ValueError("the root")
    for number in range(length):
        error = ValueError(f"number {number}")
        setattr(error, link, last)
        last = error
    return last


def _nested_group(depth: int) -> BaseException:
    group: Exception = ValueError("inmost")
    for _ in range(depth):
        group = ExceptionGroup("around it", [group])
    return group


def _deep(depth: int) -> None:
    if depth == 0:
        raise ValueError("at the bottom")
    _deep(depth - 1)


def _at_depth(depth: int) -> BaseException:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 500)
    try:
        _deep(depth)
    except ValueError as error:
        return error
    finally:
        sys.setrecursionlimit(limit)
    raise AssertionError


def _from_file(name: str) -> BaseException:
    code = compile("raise ValueError('x')", name, "exec")
    try:
        exec(code, {"__name__": "user"})
    except ValueError as error:
        return error
    raise AssertionError


def _with(error: BaseException, **attributes: Any) -> BaseException:
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


def _endless() -> BaseException:
    try:
        return _endless()
    except RecursionError as error:
        return error


def _retry_set_to(value: Any) -> BaseException:
    return _with(Retry(1), in_=value)


ODD: dict[str, Callable[[], BaseException]] = {
    "a SyntaxError with a text for an offset": lambda: SyntaxError("m", ("f", 3, "7", "x", 3, "9")),  # type: ignore[arg-type]
    "a SyntaxError with a billion columns": lambda: SyntaxError(
        "m", ("f", 1, 10**9, "x", 1, 2 * 10**9)
    ),
    "a SyntaxError without fields": lambda: _with(SyntaxError(), lineno=object(), text=5),
    "a text that is none": _class(__str__=lambda _: 5),
    "a text of an odd class": _class(__str__=lambda _: _OddText("\0 odd \ud800")),
    "args of odd texts": lambda: ValueError(_OddText("\0")),
    "a module that is none": _class(__module__=5),
    "a class of NUL and surrogates": _class(
        __qualname__="\0\ud800" + "n" * 10_000, __module__="\0\ud800"
    ),
    "a class that lies of its name": _LyingMeta("OddError", (Exception,), {}),
    "a class that it has not": _class(__class__=property(_raising(RuntimeError))),
    "a class of another": _class(__class__=Retry),
    "a circle of causes": lambda: _circle("__cause__"),
    "a circle of contexts": lambda: _circle("__context__"),
    "a cause that raises": _class(__cause__=property(_raising(SystemExit))),
    "a context that raises": _class(__context__=property(_raising(RuntimeError))),
    "a traceback that raises": _class(__traceback__=property(_raising(RuntimeError))),
    "a hundred thousand causes": lambda: _chain(100_000),
    "a hundred thousand contexts": lambda: _chain(100_000, "__context__"),
    "a huge group": lambda: ExceptionGroup("many", [ValueError(str(n)) for n in range(200_000)]),
    "a deep group": lambda: _nested_group(5_000),
    "a group of groups": lambda: ExceptionGroup(
        "x", [ExceptionGroup("y", [ValueError("z" * 10_000)] * 1_000)] * 1_000
    ),
    "a group whose members raise": lambda: type(
        "OddGroup", (ExceptionGroup,), {"exceptions": property(_raising(RuntimeError))}
    )("x", [ValueError("y")]),
    "notes that are none": lambda: _with(ValueError(), __notes__=5),
    "notes that raise": _class(__notes__=property(_raising(SystemExit))),
    "notes of all sorts": lambda: _with(ValueError(), __notes__=[5, "\0\ud800", _OddText("x")]),
    "a million notes": lambda: _with(ValueError(), __notes__=["n" * 1_000] * 1_000_000),
    "a message of 100 MB": lambda: ValueError("x" * LARGE),
    "a message of NULs and surrogates": lambda: ValueError("\0\ud800\udfff"),
    "ten thousand frames": lambda: _at_depth(10_000),
    "an endless recursion": _endless,
    "a source that is a device": lambda: _from_file("/dev/zero"),
    "a source of NUL": lambda: _from_file("\ud800.py"),
    "a source that is a folder": lambda: _from_file("/"),
    "KeyError": lambda: KeyError("\ud800"),
    "a UnicodeError": lambda: UnicodeDecodeError("utf-8", b"x" * 100, 0, 1, "\0"),
    "memory": MemoryError,
    "sys.exit": lambda: SystemExit(object()),
    "cancelled": asyncio.CancelledError,
    **{
        f"a {method} that raises {what.__name__}": _class(
            **dict[str, Any]({method: _raising(what)})
        )
        for method in ("__str__", "__repr__", "__getattribute__")
        for what in (*STOPS, RuntimeError, RecursionError, MemoryError)
    },
    **{f"Retry set to {value!s:.20}": partial(_retry_set_to, value) for value in [*NO_TIMES, []]},
}


# by name: pytest would look into the odd objects themselves
@pytest.mark.parametrize("what", ODD)
def test_whatever_is_raised_becomes_one_failure_within_bounds(what: str) -> None:
    """Describing an exception raises nothing, reaches the parent, and takes neither long nor much
    memory, however odd it is.
    """
    error = caught(ODD[what]())
    tracemalloc.start()
    try:
        began = time.process_time()
        assert_told(error)
        took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert took < 10
    assert peak < LARGE / 2


TEXTS = st.text(max_size=50) | st.text(st.characters(), max_size=50)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)
ERRORS = st.sampled_from(
    [ValueError, KeyError, OSError, SyntaxError, IndentationError, UnicodeError, StopIteration,
     SystemExit, ImportError, AttributeError, NameError, asyncio.CancelledError]
)  # fmt: skip


@settings(database=None, max_examples=100, deadline=None)
@given(kind=ERRORS, args=st.lists(VALUES, max_size=6), notes=VALUES, cause=st.none() | ERRORS)
def test_any_args_of_any_error_can_be_told(
    kind: type[BaseException], args: list[Any], notes: Any, cause: type[BaseException] | None
) -> None:
    """Whatever values built-in exceptions are made of, noted with and caused by."""
    try:
        error = kind(*args)
    except TypeError:
        return  # it does not take them
    error.__notes__ = notes
    if cause is not None:
        error.__cause__ = cause()
    assert_told(caught(error))


def test_causes_notes_and_members_of_groups_are_told() -> None:
    """In the order in which Python prints them, with the lines of the source."""
    error = ExceptionGroup("two", [ValueError("one"), KeyError("other")])
    error.add_note("a note")
    error.__cause__ = caught(OSError("the cause"))
    text = assert_told(caught(error)).traceback
    assert text is not None
    places = [text.index(part) for part in (
        "OSError: the cause", "direct cause",  "ExceptionGroup: two",
        "a note", "ValueError: one", "KeyError: 'other'",
    )]  # fmt: skip
    assert places == sorted(places)


@pytest.mark.parametrize("in_", NO_TIMES, ids=lambda value: str(value)[:20])
def test_a_retry_at_no_time_is_refused_when_it_is_made(in_: Any) -> None:
    """So the attempt fails of a ValueError that says what the bounds are."""
    with pytest.raises(ValueError, match=r"soon|365 days"):
        Retry(in_=in_)


@pytest.mark.parametrize("in_", [0, 3, 0.5, Decimal("1.5"), timedelta(days=365), "1h"])
def test_a_retry_at_some_time_is_told_in_seconds(in_: Any) -> None:
    """Whatever kind of number that is."""
    told = assert_told(caught(Retry(in_=in_)))
    assert type(told.retry_in) is float
    assert 0 <= told.retry_in <= 365 * 86400


def test_a_retry_that_was_set_to_no_time_says_so() -> None:
    """It is a failure like others, after which the backoff of the kind counts."""
    told = assert_told(caught(_retry_set_to(float("inf"))))
    assert told.retry_in is None
    assert "invalid time" in told.error_message


def test_the_class_of_an_error_is_what_it_is_and_not_what_it_says() -> None:
    """One that pretends to be a Retry has no time at which to be tried again."""
    told = assert_told(caught(_class(__class__=Retry)()))
    assert (told.retry_in, told.reject) == (None, False)


# -------------------------------------------------------------------------------------- results


class _OddDict(dict[str, Any]):
    def items(self) -> Any:
        raise SystemExit

    __iter__ = keys = items


class _OddList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise KeyboardInterrupt

    def __len__(self) -> int:
        raise SystemExit


RESULTS: dict[str, Any] = {
    "10,000 digits": 10**10_000,
    "10,000 digits within": [10**10_000],
    "a lone surrogate": "\ud800",
    "the other half": ["a\udc00"],
    "a surrogate for a key": {"\ud800": 1},
    "NaN within": {"a": [float("nan")]},
    "NaN for a key": {float("nan"): 1},
    "a key that is none": {(1, 2): 3},
    "bytes": b"x",
    "a dict that raises": _OddDict(a=1),
    "a list that raises": _OddList([1]),
    "a class": object,
    "a function": print,
    "an object that raises": _class(__getattribute__=_raising(SystemExit))(),
    "a class of no name": _LyingMeta("Odd", (), {})(),
}


def outcome_of(result: Any) -> Completed | Failed:
    """As the loops do it."""
    try:
        return completed(TASK, 0.1, result)
    except BaseException as error:  # noqa: BLE001  # the point of it
        return assert_told(error)


@pytest.mark.parametrize("what", RESULTS)
def test_a_result_that_cannot_be_kept_is_one_failure(what: str) -> None:
    """Alone or among the results of a batch, which loses no other."""
    result = RESULTS[what]
    assert isinstance(outcome_of(result), Failed)
    batch, part = a_call()
    batch.returned(part, [1, result, 3])
    first, second, third = batch.take_outcomes()
    assert (type(first), type(second), type(third)) == (Completed, Failed, Completed)


def a_call() -> tuple[Batch, Part]:
    """Three tasks in one call of their batch handler."""
    register(Handler("unit.describe", _takes_rows, batch_size=3))
    tasks = [AssignedTask(n, n, b"t", 1, "unit.describe", b"{}", None) for n in (1, 2, 3)]
    batch = Batch(tasks, lambda task: CurrentTask(task.task_id, task.kind, 1, "t", None, 1, Mock()))
    part = batch.next()
    assert part is not None
    return batch, part


@pytest.mark.parametrize("what", ["a dict that raises", "a list that raises", "a class of no name"])
def test_results_that_are_no_list_fail_the_whole_call(what: str) -> None:
    """Each of its tasks has its outcome, however the object behaves."""
    results = RESULTS[what]
    batch, part = a_call()
    batch.returned(part, results)
    assert [type(outcome) for outcome in batch.take_outcomes()] == [Failed] * 3


def _takes_rows(rows: list[dict[str, Any]]) -> list[Any]:
    return rows


def test_a_result_is_as_deep_as_a_database_can_take() -> None:
    """Also where a handler has raised Python's own limit; brackets in texts do not count."""

    def nested(levels: int) -> Any:
        found: Any = 1
        for _ in range(levels):
            found = [found]
        return found

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        assert isinstance(outcome_of(nested(1_000)), Completed)
        refused = outcome_of(nested(1_001))
        assert isinstance(refused, Failed)
        assert "levels deep" in refused.error_message
        assert isinstance(outcome_of([[], {"a": '["[' * 20}] * 2_000), Completed)
    finally:
        sys.setrecursionlimit(limit)


@settings(database=None, max_examples=100, deadline=None)
@given(VALUES | st.dictionaries(TEXTS | st.integers() | st.floats() | st.booleans(), VALUES))
def test_any_value_is_a_result_that_json_reads_back_or_one_failure(result: Any) -> None:
    """What is told as completed is JSON without NUL, lone surrogates, NaN and infinities."""
    told = outcome_of(result)
    if isinstance(told, Completed):
        text = json.dumps(
            json.loads(told.results, parse_constant=pytest.fail)[0], ensure_ascii=False
        )
        text.encode()
        assert "\\u0000" not in text.replace("\\\\", "")


def test_describing_keeps_what_was_said_before() -> None:
    """A plain error has its type, its message and its line."""
    told = describe(caught(ValueError("plain")))
    assert (told.error_type, told.message) == ("ValueError", "plain")
    assert told.traceback is not None
    assert "raise error" in told.traceback
