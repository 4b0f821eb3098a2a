"""Read from a handler's signature what it takes and returns.

A name that exists for type checkers only cannot be resolved at run time. An argument with such an
annotation is not checked.
"""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, get_args, get_origin

from peers.values import Codec, Fields, UnsupportedTypeError, codec_of

_OBJECT: Final = codec_of(dict[str, Any])
_ANY: Final = codec_of(Any)
_LISTS: Final = (list, abc.Sequence)


@dataclass(frozen=True, slots=True)
class Signature:
    """How the args of a task are written and read."""

    unresolved: Mapping[str, str]
    """The annotations that could not be resolved, by argument."""
    args: Codec | Fields


def name_of(function: Callable[..., Any]) -> str:
    """Return the module and the name of a function, also of one that is wrapped in a partial."""
    inner = innermost(function)
    name = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{getattr(inner, '__module__', None)}.{name}"


def innermost(function: Any) -> Any:
    """Return the function that decorators and partials are around."""
    while True:
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inner is None or not callable(inner):
            return function
        function = inner


def of_keywords(function: Callable[..., Any]) -> Signature:
    """Read the signature of a handler that is called with args by name.

    Raises `TypeError` for positional-only arguments, which a JSON object cannot carry, and for a
    required argument that JSON cannot hold.
    """
    codecs: dict[str, Codec] = {}
    required: set[str] = set()
    unresolved: dict[str, str] = {}
    takes_more = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_more = True
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(
                f"{name_of(function)}: args come by name, but {parameter.name!r} is positional-only"
            )
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            codec = _codec_of(function, parameter.annotation)
            if codec is None:
                unresolved[parameter.name], codec = str(parameter.annotation), _ANY
            codecs[parameter.name] = codec
            if parameter.default is parameter.empty:
                required.add(parameter.name)
                _require_json(function, parameter.name, codec)
    return Signature(unresolved, Fields(codecs, frozenset(required), takes_more=takes_more))


def of_rows(function: Callable[..., Any]) -> Signature:
    """Read the signature of a batch handler: an element of the list that it takes.

    An element that cannot be resolved is taken as a JSON object. Raises `TypeError` when the
    handler does not take one list.
    """
    parameters = list(inspect.signature(function).parameters.values())
    single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) != 1 or parameters[0].kind not in single:
        raise TypeError(
            f"{name_of(function)}: a batch handler takes one argument, the list of args, such "
            "as `rows: list[dict[str, Any]]`"
        )
    parameter = parameters[0]
    try:
        annotation = _resolve(function, parameter.annotation)
    except _UnresolvedError:
        return Signature({parameter.name: str(parameter.annotation)}, _OBJECT)
    if annotation is Any or annotation is list:
        return Signature({}, _OBJECT)
    if get_origin(annotation) not in _LISTS or len(get_args(annotation)) != 1:
        raise TypeError(
            f"{name_of(function)}: {parameter.name!r} must be a list of something that a "
            f"JSON object fits, such as list[dict[str, Any]], not {annotation!r}"
        )
    element = _codec_of(function, get_args(annotation)[0])
    if element is None:
        return Signature({parameter.name: str(parameter.annotation)}, _OBJECT)
    if dict not in element.json_types:
        raise TypeError(
            f"{name_of(function)}: {parameter.name!r} is a list of {element.name}, but the args of "
            "a task are a JSON object; take a list of dicts, dataclasses or models"
        )
    return Signature({}, element)


def _require_json(function: Callable[..., Any], name: str, codec: Codec) -> None:
    if not codec.json_types:
        raise TypeError(
            f"{name_of(function)}: {name!r} is a {codec.name}, which has no JSON form; take a "
            "value from which the handler can make it"
        )


def result_of(function: Callable[..., Any], *, is_batch: bool) -> Codec | None:
    """Return the codec of a task's result.

    None: JSON has its type itself, or its annotation is missing, cannot be resolved or has no JSON
    form. Such a result is stored as it is, unchecked. A float has a codec, because a large one is
    read from JSON as an int.
    """
    try:
        resolved = _resolve(function, inspect.signature(function).return_annotation)
        if is_batch:
            is_list = get_origin(resolved) in _LISTS and len(get_args(resolved)) == 1
            resolved = get_args(resolved)[0] if is_list else Any
        codec = codec_of(resolved)
    except (_UnresolvedError, NameError, UnsupportedTypeError):
        return None
    is_read_as_it_is = codec.is_plain and not codec.makes_floats
    return None if is_read_as_it_is or not codec.json_types else codec


class _UnresolvedError(Exception):
    """An annotation cannot be evaluated."""


def _codec_of(function: Callable[..., Any], annotation: Any) -> Codec | None:
    """Return the codec; None if the annotation or a part of it cannot be resolved."""
    try:
        return codec_of(_resolve(function, annotation))
    except (_UnresolvedError, NameError):
        return None
    except UnsupportedTypeError as error:
        raise TypeError(f"{name_of(function)}: {error}") from None


def _resolve(function: Callable[..., Any], annotation: Any) -> Any:
    """Evaluate an annotation. Raises `_UnresolvedError`."""
    if annotation is inspect.Parameter.empty:
        return Any
    inner = innermost(function)
    try:
        return typing.get_type_hints(
            SimpleNamespace(__annotations__={"it": annotation}),
            getattr(inner, "__globals__", {}), _closure(inner), include_extras=True,
        )["it"]  # fmt: skip
    except Exception:  # noqa: BLE001  # whatever an annotation does when it is evaluated
        raise _UnresolvedError from None


def _closure(function: Any) -> dict[str, Any]:
    """Return the variables of the enclosing function, as far as they are assigned yet.

    One that is assigned later, such as the name of the handler itself, is no fault of an
    annotation.
    """
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    assigned = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # the cell is empty
            assigned[name] = cell.cell_contents
    return assigned
