"""What a handler takes, read from its signature.

Only the annotations of what a task can carry are looked at; that of the result never is. A name
that is there for type checkers only cannot be resolved: such an argument is not checked.
"""

from __future__ import annotations

import inspect
import typing
from collections import abc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, NotRequired, get_args, get_origin

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

# JSON has no bytes. As base64 they come through whatever they are; as text, only if they are UTF-8.
BASE64: Final = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")
_ELEMENT: Final = "element"
_NEVER: Final = (bytearray, memoryview)


@dataclass(frozen=True, slots=True)
class Signature:
    """What args must be, and the annotations that could not be resolved, by the argument."""

    unresolved: Mapping[str, str]
    _args: TypeAdapter[Any]
    _field: str | None = None
    """Where in what the adapter takes the args are; None: they are all of it."""

    def check(self, args: Mapping[str, Any]) -> Any:
        """Return the args as the annotations want them. Raises `ValueError`, which names each."""
        try:
            checked = self._args.validate_python(
                args if self._field is None else {self._field: args}
            )
        except ValidationError as error:
            within = 0 if self._field is None else 1
            raise ValueError(
                "; ".join(
                    f"{'.'.join(map(str, e['loc'][within:])) or 'args'}: {e['msg']}"
                    for e in error.errors()
                )
            ) from None
        return checked if self._field is None else checked[self._field]


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
    """Read what a handler takes that is called with args by name.

    Raises `TypeError` when it takes positional-only arguments, which a JSON object cannot carry,
    or bytes in a form that does not come through.
    """
    fields: dict[str, Any] = {}
    unresolved: dict[str, str] = {}
    extra: Any = "forbid"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(
                f"{name_of(function)}: args come by name, but {parameter.name!r} is positional-only"
            )
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            annotation = _resolved(function, parameter)
            if annotation is None:
                unresolved[parameter.name], annotation = str(parameter.annotation), Any
            required = parameter.default is parameter.empty
            fields[parameter.name] = annotation if required else NotRequired[annotation]
    return Signature(unresolved, _checked(function, _adapter(fields, extra)))


def of_rows(function: Callable[..., Any]) -> Signature:
    """Read what one element is of the list that a batch handler takes.

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
    annotation = _resolved(function, parameter)
    if annotation is None:
        return Signature({parameter.name: str(parameter.annotation)}, TypeAdapter(dict[str, Any]))
    if annotation is Any or annotation is list:
        return Signature({}, TypeAdapter(dict[str, Any]))
    if get_origin(annotation) not in (list, abc.Sequence) or len(get_args(annotation)) != 1:
        raise TypeError(
            f"{name_of(function)}: {parameter.name!r} must be a list of something that a "
            f"JSON object fits, such as list[dict[str, Any]], not {annotation!r}"
        )
    adapter = _adapter({_ELEMENT: get_args(annotation)[0]}, "forbid")
    return Signature({}, _checked(function, adapter), _ELEMENT)


def _adapter(fields: dict[str, Any], extra: Any) -> TypeAdapter[Any]:
    typed_dict: Any = TypedDict  # of fields that are known at run time only
    shape = typed_dict("shape", fields)
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True, **BASE64)
    return TypeAdapter(with_config(config)(shape))


def _resolved(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Evaluate an annotation; None if it, or a type that it is made of, is not there."""
    if parameter.annotation is parameter.empty:
        return Any
    inner = innermost(function)
    code = getattr(inner, "__code__", None)
    cells = getattr(inner, "__closure__", None) or ()
    try:
        closure = {
            name: cell.cell_contents
            for name, cell in zip(getattr(code, "co_freevars", ()), cells, strict=False)
        }
        annotation = typing.get_type_hints(
            SimpleNamespace(__annotations__={"it": parameter.annotation}),
            getattr(inner, "__globals__", {}), closure, include_extras=True,
        )["it"]  # fmt: skip
    except Exception:  # noqa: BLE001  # whatever an annotation does when it is evaluated
        return None
    try:
        _adapter({"it": annotation}, "forbid").validate_python({})
    except (NameError, PydanticUserError):  # of a model with fields that are not there
        return None
    except ValueError:
        pass  # of course: there is nothing in it
    return type(None) if annotation is None else annotation


# ------------------------------------------------------------------------------------------ bytes


def _checked(function: Callable[..., Any], adapter: TypeAdapter[Any]) -> TypeAdapter[Any]:
    complaint = next(bytes_without_form(adapter.core_schema, base64=True), None)
    if complaint is not None:
        raise TypeError(f"{name_of(function)}: {complaint}")
    return adapter


def bytes_without_form(schema: Any, *, base64: bool) -> Iterator[str]:
    """Yield why bytes that are annotated somewhere in a pydantic schema would not come through.

    `base64`: whether the types around it say that bytes are written as base64.
    """
    if isinstance(schema, list | tuple):
        for part in schema:
            yield from bytes_without_form(part, base64=base64)
    if not isinstance(schema, dict):
        return
    kind, config = schema.get("type"), schema.get("config")
    if kind == "model" or (kind == "dataclass" and config is not None):
        base64 = dict(config or {}).items() >= dict(BASE64).items()
    if kind == "bytes" and not base64:
        yield (
            "bytes in a model only come through as base64; give it model_config = "
            'ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")'
        )
    if kind == "is-instance" and schema.get("cls") in _NEVER:
        yield f"{schema['cls'].__name__} has no form in JSON; annotate it as bytes"
    if kind == "union" and any(_is_bytes(choice) for choice in schema["choices"]):
        yield "bytes or something else cannot be told apart in JSON; take bytes, or bytes | None"
    for key, part in schema.items():
        if key not in ("metadata", "config", "cls"):
            yield from bytes_without_form(part, base64=base64)


def _is_bytes(choice: Any) -> bool:
    """Return whether a choice of a union, a schema or a schema with its label, is bytes."""
    schema = choice[0] if isinstance(choice, tuple) else choice
    return isinstance(schema, dict) and schema.get("type") == "bytes"
