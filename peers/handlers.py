"""Handlers and their registry: which function runs which kind, and under which policy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from peers.errors import ArgsInvalid
from peers.model import (
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
    _args: TypeAdapter[dict[str, Any]] = field(init=False, repr=False, compare=False)

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
        object.__setattr__(self, "_args", _args_of(self.function))

    @property
    def is_async(self) -> bool:
        """Whether it runs on the event loop of an async worker."""
        return inspect.iscoroutinefunction(self.function)

    def check(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The args as the function's annotations want them.

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
