"""Args and results by a handler's annotations: what is submitted, run and read back."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from socket import socket
from typing import TYPE_CHECKING, Any, TypedDict
from unittest.mock import Mock

import pydantic
import pytest

from peers import handlers
from peers.client.options import Options
from peers.client.submission import document
from peers.context import CurrentTask, Tasks, current_task, enter
from peers.errors import ArgsInvalid, ResultInvalid
from peers.handlers import Handler
from peers.values.codec import same
from peers.worker.args import load_args
from peers.worker.assigned import AssignedTask
from peers.worker.outcome import completed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KIND = "unit.handler_values"
DAY = date(2026, 11, 23)


class Color(Enum):
    """Of two."""

    RED = "red"
    BLUE = "blue"


@dataclass
class Customer:
    """A dataclass."""

    name: str
    birthday: date


class Row(TypedDict):
    """A row of a batch."""

    n: int
    day: date


class Model(pydantic.BaseModel):
    """A row of a batch too."""

    n: int
    day: date


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    handlers._registry.pop(KIND, None)


def declared(function: Callable[..., Any], **options: Any) -> Handler:
    """The handler, as its module declares it."""
    handler = Handler(KIND, function, **options)
    handlers._registry[KIND] = handler
    return handler


def submitted(args: Mapping[str, Any]) -> AssignedTask:
    """A task as its worker gets it."""
    text = json.dumps(document(KIND, args, Options())["args"]).encode()
    return AssignedTask(1, 1, b"t", 1, KIND, text, None)


def test_a_handler_gets_the_values_that_were_submitted() -> None:
    """By string annotations, positional or keyword-only, with defaults left to the function."""

    def handler(
        customer: Customer, day: date = DAY, *, colors: set[Color], at: datetime | None = None
    ) -> None:
        """Takes all sorts."""

    declared(handler)
    args = {"customer": Customer("Ada", DAY), "colors": {Color.RED}, "at": datetime.now(UTC)}
    assert same(load_args(submitted(args)), args)


def test_more_args_are_taken_by_keyword_as_json() -> None:
    """What **others takes has no annotation that would make something of it."""

    def handler(day: date, **others: str) -> None:
        """Takes more."""

    declared(handler)
    assert load_args(submitted({"day": DAY, "n": 1, "at": DAY})) == {
        "day": DAY, "n": 1, "at": "2026-11-23",
    }  # fmt: skip
    with pytest.raises(ArgsInvalid, match=r"args\.more: got bytes"):
        submitted({"day": DAY, "more": b"x"})


def test_every_wrong_field_is_named_at_submit_and_in_the_worker() -> None:
    """By its path; the worker's error is the same as the one at submit."""

    def handler(customer: Customer, n: int, price: Decimal) -> None:
        """Takes them."""

    declared(handler)
    wrong = {"customer": {"name": "Ada", "birthday": "soon"}, "n": "1", "z": 2}
    expected = (
        r"args do not fit unit\.handler_values: args\.price: missing.*"
        r"args\.customer\.birthday: expected date.*args\.n: expected int, got str.*args\.z: unknown"
    )
    with pytest.raises(ArgsInvalid, match=expected):
        submitted(wrong)
    with pytest.raises(ArgsInvalid, match=expected):
        load_args(AssignedTask(1, 1, b"t", 1, KIND, json.dumps(wrong).encode(), None))


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ({"text": "a\0b"}, r"args\.text: the text holds a NUL"),
        ({"text": "a", "more": {"b": ["c", "\0"]}}, r"args\.more\.b\[1\]: the text holds a NUL"),
        ({"text": "a", "more": {"b\0": 1}}, r"args\.more: the key 'b\\x00': the text holds a NUL"),
    ],
)
@pytest.mark.parametrize("kind", [KIND, "unit.of_another_program"])
def test_a_text_that_jsonb_cannot_hold_is_named(args: dict[str, Any], path: str, kind: str) -> None:
    """With a handler and without one; what only looks like a NUL comes through."""

    def handler(text: str, more: dict[str, Any] | None = None) -> None:
        """Takes text."""

    declared(handler)
    with pytest.raises(ArgsInvalid, match=path):
        document(kind, args, Options())
    with pytest.raises(ArgsInvalid, match=path.replace("args", "metadata", 1)):
        document(kind, {"text": ""}, Options(metadata=args))
    assert document(kind, {"text": r"\u0000"}, Options())["args"] == {"text": r"\u0000"}


@pytest.mark.parametrize("element", [Row, Customer, Model])
def test_a_batch_handler_gets_rows_of_its_type(element: Any) -> None:
    """A TypedDict, a dataclass and a model; tasks are submitted one by one, with args by name."""

    def handler(rows: list[Any]) -> None:
        """Takes rows."""

    handler.__annotations__["rows"] = list[element]
    declared(handler, batch_size=2)
    args: dict[str, Any] = {"n": 1, "day": DAY}
    if element is Customer:
        args = {"name": "Ada", "birthday": DAY}
    assert same(load_args(submitted(args)), element(**args))
    with pytest.raises(ArgsInvalid, match=rf"args\.{[*args][1]}: .*date"):
        submitted({**args, [*args][1]: "soon"})
    if element is not Model:  # whose own configuration decides
        with pytest.raises(ArgsInvalid, match=r"args\.z: "):
            submitted({**args, "z": 1})


def test_a_batch_of_what_no_object_is_is_refused_when_it_is_declared() -> None:
    """The args of a task are an object; a list of numbers is never called."""

    def handler(rows: list[int]) -> None:
        """Takes numbers."""

    with pytest.raises(TypeError, match=r"'rows' is a list of int, but .* JSON object"):
        declared(handler, batch_size=2)


def test_a_required_arg_without_json_form_is_refused_when_it_is_declared() -> None:
    """Nobody could submit it. With a default, a caller inside the program may pass it."""

    def required(connection: socket) -> None:
        """Cannot be submitted."""

    def optional(n: int, connection: socket | None = None, other: socket = ...) -> None:
        """Can."""

    with pytest.raises(TypeError, match="'connection' is a socket, which has no JSON form; take"):
        declared(required)
    declared(optional)
    assert load_args(submitted({"n": 1, "connection": None})) == {"n": 1, "connection": None}
    with pytest.raises(ArgsInvalid, match=r"args\.other: .*socket has no JSON form"):
        submitted({"n": 1, "other": 1})


@dataclass
class Positive:
    """A dataclass that checks itself."""

    n: int

    def __post_init__(self) -> None:
        if self.n <= 0:
            raise ValueError("n must be positive")


def test_what_the_worker_could_not_read_is_refused_at_submit() -> None:
    """An object may have been changed since it was checked."""

    def handler(it: Positive) -> Positive:
        return it

    handler_of_positive = declared(handler)
    value = Positive(1)
    value.n = -1
    with pytest.raises(ArgsInvalid, match=r"args\.it: Positive refused .* must be positive"):
        submitted({"it": value})
    with pytest.raises(ResultInvalid, match=r"result: Positive refused .* must be positive"):
        handler_of_positive.dump_result(value)


async def _async_result() -> Customer: ...  # type: ignore[empty-body]
def _batch_result(rows: list[Any]) -> list[Customer]: ...  # type: ignore[empty-body]
def _sync_result() -> Customer: ...  # type: ignore[empty-body]


@pytest.mark.parametrize("function", [_async_result, _batch_result, _sync_result])
def test_a_result_comes_back_as_it_was_returned(function: Callable[..., Any]) -> None:
    """By the annotation of the function, or of an element of what a batch handler returns."""
    batch_size = 2 if function is _batch_result else None
    handler = declared(function, batch_size=batch_size)
    task = AssignedTask(1, 1, b"t", 1, KIND, b"{}", None)
    stored = json.loads(completed(task, 0.1, Customer("Ada", DAY)).results)[0]
    assert handler.load_result(stored) == Customer("Ada", DAY)
    with pytest.raises(ResultInvalid, match=r"result\.birthday: expected date, got int"):
        completed(task, 0.1, Customer("Ada", 5))  # type: ignore[arg-type]
    with pytest.raises(ResultInvalid, match=r"result\.birthday: expected date"):
        handler.load_result({"name": "Ada", "birthday": "soon"})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [("float", 1e300), ("dict[str, list[float]]", {"a": [1e22, 0.5]}), ("float | None", 1e16)],
)
def test_a_large_float_comes_back_as_a_float(annotation: str, value: Any) -> None:
    """The database writes it without an exponent, as an int. What is no float is left alone."""

    def function() -> Any:
        """Returns a number."""

    function.__annotations__["return"] = annotation
    handler = declared(function)
    stored = {"a": [int(1e22), 0.5]} if isinstance(value, dict) else int(value)
    assert same(handler.load_result(stored), value)
    assert handler.dump_result("other") == handler.load_result("other") == "other"


@pytest.mark.parametrize("annotation", [None, "dict[str, int]", "Missing", "socket", "1 / 0"])
def test_a_result_that_json_has_itself_is_not_checked(annotation: str | None) -> None:
    """Nor is one whose annotation says nothing: the work is done, and its result is kept."""

    def function() -> Any:
        """Returns something."""

    function.__annotations__["return"] = annotation
    with warnings.catch_warnings(action="error"):
        handler = declared(function)
        task = AssignedTask(1, 1, b"t", 1, KIND, b"{}", None)
        stored = json.loads(completed(task, 0.1, {"a": "b", "day": DAY}).results)[0]
    assert handler.load_result(stored) == {"a": "b", "day": "2026-11-23"}


def test_a_class_below_its_handler_is_the_result_of_it() -> None:
    """It is not there when the function is declared."""
    namespace: dict[str, Any] = {"dataclass": dataclass, "__name__": __name__}
    exec("def function() -> 'Later': ...", namespace)
    handler = declared(namespace["function"])
    exec("@dataclass\nclass Later:\n    n: int", namespace)
    later = namespace["Later"]
    assert handler.dump_result(later(1)) == {"n": 1}
    assert handler.load_result({"n": 1}) == later(1)


def test_a_handler_that_asks_for_its_task_gets_values_too() -> None:
    """`current_task()` is no argument, so nothing is different."""

    def handler(day: date) -> date:
        assert current_task().kind == KIND
        return day

    handler_of_day = declared(handler)
    args = load_args(submitted({"day": DAY}))
    task = CurrentTask(1, KIND, 1, "t", None, 1, Mock())

    def run() -> None:
        enter(Mock(Tasks, **{"current_task.return_value": task}), 0)
        assert handler_of_day.function(**args) == DAY

    copy_context().run(run)  # or the tests that follow would run inside this handler


@dataclass
class Node:
    """One that contains itself."""

    day: date
    inner: Node | None = None


def test_what_is_nested_too_deeply_is_refused() -> None:
    """By an error that says so, at submit and in the worker."""

    def handler(node: Node) -> None:
        """Takes a chain."""

    declared(handler)
    node, data = Node(DAY), {"day": "2026-11-23"}
    for _ in range(2000):
        node, data = Node(DAY, node), {"day": "2026-11-23", "inner": data}  # type: ignore[dict-item]
    with pytest.raises(ArgsInvalid, match="nested too deeply"):
        submitted({"node": node})
    with pytest.raises(ArgsInvalid, match="nested too deeply"):
        handlers._registry[KIND].load_args({"node": data})
