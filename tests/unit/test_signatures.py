"""What handlers take: annotations that are not there at run time, and bytes."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from peers import handlers
from peers.client.options import Options
from peers.client.submission import document
from peers.errors import ArgsInvalid, ResultInvalid
from peers.handlers import Handler
from peers.worker.args import load_args
from peers.worker.assigned import AssignedTask
from peers.worker.outcome import completed

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

KIND = "unit.signatures"
ALL_BYTES = bytes(range(256))


def settled(function: Callable[..., Any], **options: Any) -> Handler:
    """The handler after the import of its module."""
    handler = Handler(KIND, function, **options)
    handler.resolve()
    return handler


# ------------------------------------------------------------------------------------ annotations


def _plain(thing: Unknown, n: int = 1) -> None:
    """Knows its first argument while it is checked only."""


def _text(thing: "Unknown", n: int = 1) -> None:  # noqa: UP037 - the point of it
    """The same in quotes."""


def _within(thing: dict[str, list[Unknown]] | None, n: int = 1) -> None:
    """The same within a generic type."""


def _optional(thing: Optional["Unknown"], n: int = 1) -> None:  # noqa: UP037, UP045
    """The same in typing's own words."""


def _annotated(thing: Annotated[Unknown, "more"], n: int = 1) -> None:
    """The same with metadata."""


def _attribute(thing: json.Unknown, n: int = 1) -> None:  # type: ignore[name-defined]
    """A module that has no such name."""


def _nonsense(thing: 1 / 0, n: int = 1) -> None:  # type: ignore[valid-type]
    """What raises when it is evaluated."""


async def _asynchronous(thing: Unknown, n: int = 1) -> Unknown:
    """The same on a loop."""


def _decorating(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Unknown, **kwargs: Unknown) -> Unknown:
        return function(*args, **kwargs)

    return wrapper


class _Broken(pydantic.BaseModel):
    inner: Missing  # type: ignore[name-defined]  # noqa: F821 - the point of it


def _model(thing: _Broken, n: int = 1) -> None:
    """A model that cannot be built."""


def _three(x: int, thing: Unknown, n: int = 1) -> None:
    """One to be made a partial."""


UNRESOLVED: dict[str, Callable[..., Any]] = {
    "plain": _plain,
    "in quotes": _text,
    "within a generic type": _within,
    "optional": _optional,
    "annotated": _annotated,
    "an attribute": _attribute,
    "nonsense": _nonsense,
    "async": _asynchronous,
    "decorated": _decorating(_plain),
    "decorated twice": _decorating(_decorating(_plain)),
    "partial": functools.partial(_three, x=1),
    "partial of a decorated one": functools.partial(_decorating(_three), x=1),
    "a model that is broken": _model,
}


@pytest.mark.parametrize("how", UNRESOLVED)
def test_what_cannot_be_resolved_is_not_checked_and_said_at_import(how: str) -> None:
    """However the annotation is written: the handler is imported, a warning names the function and
    the argument, that argument takes anything, and the others are checked as ever.
    """
    with pytest.warns(UserWarning, match=r"_.*'thing' is not checked") as told:
        handler = settled(UNRESOLVED[how])
    assert len(told) == 1
    assert handler.load_args({"thing": [1, {"a": None}], "n": 2})["n"] == 2
    with pytest.raises(ArgsInvalid, match="n:"):
        handler.load_args({"thing": 1, "n": "many"})
    with pytest.raises(ArgsInvalid, match="other"):
        handler.load_args({"thing": 1, "other": 2})


def test_what_a_task_does_not_carry_is_never_evaluated() -> None:
    """Neither the annotation of the result, nor those of *args and **kwargs."""

    def handler(n: int, *args: Unknown, **kwargs: Unknown) -> Unknown:
        """Returns something."""

    with warnings.catch_warnings(action="error"):
        assert settled(handler).load_args({"n": 1, "more": 2}) == {"n": 1, "more": 2}


@pytest.mark.parametrize("how", ["list[Unknown]", "Unknown", "list[dict[str, Unknown]]"])
def test_a_batch_whose_elements_cannot_be_resolved_takes_objects(how: str) -> None:
    """With a warning: its list is one of dicts."""

    def handler(rows: Any) -> list[Any]:
        return list(rows)

    handler.__annotations__["rows"] = how
    with pytest.warns(UserWarning, match="'rows' is taken as a list of JSON objects"):
        found = settled(handler, batch_size=2)
    assert found.load_args({"n": 1}) == {"n": 1}


def test_a_class_below_its_handler_is_known_when_the_import_is_over() -> None:
    """No warning, and the argument is checked."""
    namespace: dict[str, Any] = {"pydantic": pydantic, "__name__": "later"}
    exec("def handler(thing: 'Later') -> 'Later': ...", namespace)
    handler = Handler(KIND, namespace["handler"])
    exec("class Later(pydantic.BaseModel):\n    n: int", namespace)
    with warnings.catch_warnings(action="error"):
        handler.resolve()
    assert handler.load_args({"thing": {"n": 1}})["thing"].n == 1
    with pytest.raises(ArgsInvalid, match=r"thing\.n"):
        handler.load_args({"thing": {"n": "many"}})


def test_a_type_of_a_function_around_it_is_known() -> None:
    """A handler that is made in a function can use what it finds there."""

    class Local(pydantic.BaseModel):
        n: int

    def handler(thing: Local) -> int:
        return Local.model_validate(thing).n

    with warnings.catch_warnings(action="error"):
        assert settled(handler).load_args({"thing": {"n": 3}})["thing"].n == 3


def test_a_variable_that_is_not_assigned_yet_is_no_fault_of_an_annotation() -> None:
    """Such as the name of the handler itself, or of a function that is defined below."""

    class Local(pydantic.BaseModel):
        n: int

    def handler(thing: Local, more: int | None = None) -> object:
        return helper, handler, Local, thing, more

    with warnings.catch_warnings(action="error"):
        early = Handler(KIND, handler)  # as the decorator does: `helper` has no value
        early.resolve()
    helper = None
    with pytest.raises(ArgsInvalid, match="thing"):
        early.dump_args({"thing": {"n": "x"}})
    with pytest.raises(ArgsInvalid, match="more"):
        early.dump_args({"thing": {"n": 1}, "more": "x"})


@pytest.mark.parametrize("text", ["\0", "\ud800", "a\udfff"])
@pytest.mark.parametrize("name", ["kind", "queue"])
def test_a_name_that_no_database_holds_is_refused_when_it_is_declared(name: str, text: str) -> None:
    """Such a kind could not even be told to the peer."""
    options: dict[str, Any] = {"kind": "k", "function": _three, name: text}
    with pytest.raises(ValueError, match="NUL and lone surrogates"):
        Handler(**options)


# ------------------------------------------------------------------------------------------ bytes


class Model(pydantic.BaseModel):
    """Bytes as text: what pydantic does unless it is told otherwise."""

    data: bytes


class Base64Model(pydantic.BaseModel):
    """Bytes as base64."""

    model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    data: bytes


@dataclasses.dataclass
class Data:
    """Of the standard library."""

    data: bytes


@pydantic.dataclasses.dataclass
class PydanticData:
    """With a will of its own."""

    data: bytes


class Typed(TypedDict):
    """A dict."""

    data: bytes


FORMS: dict[str, tuple[Any, Callable[[bytes], Any]]] = {
    "bytes": (bytes, lambda data: data),
    "optional": (bytes | None, lambda data: data),
    "a list": (list[bytes], lambda data: [data, data]),
    "a dict": (dict[str, bytes], lambda data: {"a": data}),
    "a tuple": (tuple[int, bytes], lambda data: (1, data)),
    "nested": (dict[str, list[bytes | None]], lambda data: {"a": [None, data]}),
    "a dataclass": (Data, Data),
    "a typed dict": (Typed, lambda data: {"data": data}),
    "a model that says so": (Base64Model, lambda data: Base64Model(data=data)),
    "models": (list[Base64Model], lambda data: [Base64Model(data=data)]),
}


def round_trip(annotation: Any, value: Any) -> Any:
    """What the handler gets of a value that was submitted."""

    def handler(it: Any) -> None:
        """Takes it."""

    handler.__annotations__["it"] = annotation
    handlers._registry[KIND] = Handler(KIND, handler)
    sent = document(KIND, {"it": value}, Options())
    text = json.dumps(sent["args"]).encode()
    return load_args(AssignedTask(1, 1, b"t", 1, KIND, text, None))["it"]


@pytest.mark.parametrize("form", FORMS)
@settings(database=None, max_examples=10, deadline=None)
@given(data=st.binary(max_size=300) | st.just(ALL_BYTES))
def test_bytes_come_through_as_they_are_where_they_are_annotated(form: str, data: bytes) -> None:
    """All values of a byte, in every form that JSON leads back from."""
    annotation, make = FORMS[form]
    value = make(data)
    assert round_trip(annotation, value) == value


def test_bytes_may_be_given_in_either_alphabet_of_base64() -> None:
    """Other languages write + and /, pydantic - and _."""

    def handler(data: bytes) -> None:
        """Takes bytes."""

    found = settled(handler)
    for text in ("-_-_", "+/+/"):
        assert found.load_args({"data": text}) == {"data": b"\xfb\xff\xbf"}
    with pytest.raises(ArgsInvalid, match="base64"):
        found.load_args({"data": "no base64!"})


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (Model, "ConfigDict"), (list[Model], "ConfigDict"), (PydanticData, "ConfigDict"),
        (Model | None, "ConfigDict"), (bytes | str, "told apart"),
        (bytes | datetime.date, "told apart"),
        (bytearray, "annotate it as bytes"), (memoryview | None, "annotate it as bytes"),
    ],
)  # fmt: skip
def test_bytes_in_a_form_that_depends_on_their_content_are_refused_at_once(
    annotation: Any, why: str
) -> None:
    """When the handler is declared, with the remedy; not when some bytes are no UTF-8."""

    def handler(it: Any) -> None:
        """Takes it."""

    handler.__annotations__["it"] = annotation
    with pytest.raises(TypeError, match=why):
        Handler(KIND, handler)


@pytest.mark.parametrize("value", [b"text", ALL_BYTES, [b"text"], {"a": b"text"}])
@pytest.mark.parametrize("annotation", [str, Any, list[str], dict[str, Any], "list"])
def test_bytes_that_the_handler_would_get_as_text_are_refused(value: Any, annotation: Any) -> None:
    """Whatever is in them: base64 must not pass for the text of an argument."""
    with pytest.raises(ArgsInvalid):
        round_trip(annotation, value)


@pytest.mark.parametrize("data", [b"", b"text", ALL_BYTES])
def test_bytes_in_results_are_refused_by_their_class(data: bytes) -> None:
    """By no class that leaves it open, whatever the bytes are; what says base64 is kept."""
    task = AssignedTask(1, 1, b"t", 1, KIND, b"{}", None)
    for refused in (data, [data], {"a": bytearray(data)}, Model.model_construct(data=data)):
        with pytest.raises(ResultInvalid):
            completed(task, 0.0, refused)
    for kept in (Base64Model(data=data), Data(data)):
        told = json.loads(completed(task, 0.0, kept).results)[0]
        assert round_trip(type(kept), kept).data == data
        assert round_trip(Data, told).data == data
