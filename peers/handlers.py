"""Handlers and their registry: which function runs which kind, and under which policy."""

from __future__ import annotations

import inspect
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, NotRequired, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from peers.errors import ArgsInvalid
from peers.model import (
    BATCH_SIZE_MAX,
    BATCH_WAIT_MAX,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    MAX_ATTEMPTS_MAX,
    NAME_MAX_LENGTH,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TIMEOUT_MAX,
    TIMEOUT_MIN,
)

DEFAULT_BACKOFF: Final = timedelta(seconds=1)
DEFAULT_BACKOFF_CAP: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that runs the tasks of one kind, and the policy that it declares for them.

    With a `batch_size` it takes a list with the args of up to as many tasks, and returns as many
    results; it is called for fewer when no more have come within `batch_wait`.

    Raises `ValueError` when a value is out of bounds.
    """

    kind: str
    function: Callable[..., Any]
    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout: timedelta | None = None
    backoff: timedelta = DEFAULT_BACKOFF
    backoff_cap: timedelta = DEFAULT_BACKOFF_CAP
    batch_size: int | None = None
    batch_wait: timedelta = timedelta(0)
    _args: TypeAdapter[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, text in (("kind", self.kind), ("queue", self.queue)):
            _require(
                1 <= len(text) <= NAME_MAX_LENGTH, name, f"1 to {NAME_MAX_LENGTH} characters", text
            )
        of = f" of {self.kind!r}"
        _require(
            PRIORITY_MIN <= self.priority <= PRIORITY_MAX,
            "priority" + of, f"{PRIORITY_MIN} to {PRIORITY_MAX}", self.priority,
        )  # fmt: skip
        _require(
            1 <= self.max_attempts <= MAX_ATTEMPTS_MAX,
            "max_attempts" + of, f"1 to {MAX_ATTEMPTS_MAX}", self.max_attempts,
        )  # fmt: skip
        if self.timeout is not None:
            seconds = self.timeout.total_seconds()
            _require(
                TIMEOUT_MIN <= seconds <= TIMEOUT_MAX,
                "timeout" + of,
                "1 ms to 30 days",
                self.timeout,
            )
        _require(
            timedelta(0) <= self.backoff <= self.backoff_cap,
            "backoff" + of, f"0 to its backoff_cap ({self.backoff_cap})", self.backoff,
        )  # fmt: skip
        if self.batch_size is not None:
            _require(
                1 <= self.batch_size <= BATCH_SIZE_MAX,
                "batch_size" + of, f"1 to {BATCH_SIZE_MAX}", self.batch_size,
            )  # fmt: skip
        _require(
            self.batch_size is not None or not self.batch_wait,
            "batch_wait" + of, "left out without a batch_size", self.batch_wait,
        )  # fmt: skip
        _require(
            0 <= self.batch_wait.total_seconds() <= BATCH_WAIT_MAX,
            "batch_wait" + of, f"0 to {BATCH_WAIT_MAX:g} s", self.batch_wait,
        )  # fmt: skip
        adapter = _args_of if self.batch_size is None else _element_of
        object.__setattr__(self, "_args", adapter(self.function))

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop of an async worker."""
        return inspect.iscoroutinefunction(self.function)

    def check(self, args: Mapping[str, Any]) -> Any:
        """The args as the function's annotations want them: by name, or an element of its list.

        Raises `ArgsInvalid` when one is missing, unknown or of another type.
        """
        try:
            return self._args.validate_python(args)
        except ValidationError as error:
            complaints = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'args'}: {e['msg']}" for e in error.errors()
            )
            raise ArgsInvalid(f"args do not fit {self.kind}: {complaints}") from None


def _require(fits: bool, name: str, bound: str, value: object) -> None:
    if not fits:
        raise ValueError(f"{name} must be {bound}, not {value!r}")


def _args_of(function: Callable[..., Any]) -> TypeAdapter[dict[str, Any]]:
    """A check for the keyword arguments of `function`, from its signature.

    Raises `TypeError` when it takes positional-only arguments, which a JSON object cannot carry.
    """
    fields: dict[str, Any] = {}
    extra: Any = "forbid"
    signature = inspect.signature(function, eval_str=True)
    for parameter in signature.parameters.values():
        annotation = Any if parameter.annotation is parameter.empty else parameter.annotation
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise TypeError(
                f"{function.__qualname__}: args come by name, "
                f"but {parameter.name!r} is positional-only"
            )
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            required = parameter.default is parameter.empty
            fields[parameter.name] = annotation if required else NotRequired[annotation]
    typed_dict: Any = TypedDict  # of fields that are known at run time only
    shape = typed_dict("shape", fields)
    config = ConfigDict(extra=extra, arbitrary_types_allowed=True)
    return TypeAdapter(with_config(config)(shape))


def _element_of(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """A check for one element of the list that a batch handler takes.

    Raises `TypeError` when it does not take one list.
    """
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    annotation = parameters[0].annotation if len(parameters) == 1 else None
    single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if annotation is None or parameters[0].kind not in single:
        raise TypeError(
            f"{function.__qualname__}: a batch handler takes one argument, the list of args, such "
            "as `rows: list[dict[str, Any]]`"
        )
    if annotation is inspect.Parameter.empty or annotation is list:
        return TypeAdapter(dict[str, Any])
    if get_origin(annotation) not in (list, abc.Sequence) or len(get_args(annotation)) != 1:
        raise TypeError(
            f"{function.__qualname__}: {parameters[0].name!r} must be a list of something that a "
            f"JSON object fits, such as list[dict[str, Any]], not {annotation!r}"
        )
    return TypeAdapter(get_args(annotation)[0])


_registry: dict[str, Handler] = {}


def register(handler: Handler) -> None:
    """Make `handler` the one for its kind.

    Raises `ValueError` when another function already is.
    """
    other = _registry.get(handler.kind)
    if other is not None and _name(other.function) != _name(handler.function):
        raise ValueError(
            f"kind {handler.kind!r} already has the handler {_name(other.function)}; "
            f"give {_name(handler.function)} another kind"
        )
    _registry[handler.kind] = handler


def registry() -> Mapping[str, Handler]:
    """All handlers, by kind."""
    return MappingProxyType(_registry)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
