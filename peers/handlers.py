"""Handlers and their registry: the function that runs a kind, and its policy."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from peers.errors import ArgsInvalid, BadLimit, BadSchedule, ResultInvalid
from peers.limits import MOST_TOGETHER, Limit, require_paths
from peers.schedules import Schedule
from peers.signatures import Signature, innermost, name_of, of_keywords, of_rows, result_of
from peers.spans import format_span
from peers.types import (
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
from peers.values import Codec, ConversionError, Fields

KeepLog: TypeAlias = Literal["", "failed", "always"]
"""Which logs are kept: none, those of failed attempts, or those of completed ones too."""

DEFAULT_BACKOFF: Final = timedelta(seconds=1)
DEFAULT_BACKOFF_CAP: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Handler:
    """A function that runs the tasks of one kind, and the policy that it declares for them.

    With a `batch_size` the function takes a list with the args of up to that many tasks, and
    returns one result for each. It is called with fewer when no more come within `batch_wait`.

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
    keep_log: KeepLog = ""
    limits: tuple[Limit, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    _signature: Signature = field(init=False, repr=False, compare=False)
    _result: Codec | None = field(init=False, repr=False, compare=False, default=None)
    _is_resolved: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        for name, text in (("kind", self.kind), ("queue", self.queue)):
            _require(
                1 <= len(text) <= NAME_MAX_LENGTH, name, f"1 to {NAME_MAX_LENGTH} characters", text
            )
            _require(_is_storable(text), name, "text without NUL and lone surrogates", text)
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
                f"{format_span(TIMEOUT_MIN)} to {format_span(TIMEOUT_MAX)}",
                self.timeout,
            )
        _require(
            timedelta(0) <= self.backoff <= self.backoff_cap,
            "backoff" + of, f"0 to its backoff_cap ({format_span(self.backoff_cap)})", self.backoff,
        )  # fmt: skip
        _require(
            self.keep_log in ("", "failed", "always"),
            "keep_log" + of, 'True (of failed attempts), "always" or False', self.keep_log,
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
            "batch_wait" + of, f"0 to {format_span(BATCH_WAIT_MAX)}", self.batch_wait,
        )  # fmt: skip
        self._check_limits()
        names = [self.name_of_schedule(schedule) for schedule in self.schedules]
        _require(len(set(names)) == len(names), "schedules" + of, "of different names", names)
        self._read_signature()

    def _check_limits(self) -> None:
        names = [self.name_of_limit(limit) for limit in self.limits]
        if len(names) > MOST_TOGETHER:
            raise BadLimit(
                f"at most {MOST_TOGETHER} limits may hold for one task, not {len(names)}"
            )
        if len(set(names)) < len(names):
            raise BadLimit(
                f"the limits of {self.kind!r} have the same name: {', '.join(names)}",
                'Give each its own, such as Limit(4, name="stripe").',
            )

    @property
    def timeout_seconds(self) -> float | None:
        """Return the timeout in seconds. None: there is none."""
        return None if self.timeout is None else self.timeout.total_seconds()

    @property
    def is_async(self) -> bool:
        """Return whether it runs on the event loop of an async worker."""
        return inspect.iscoroutinefunction(self.function)

    def declared_limits(self) -> list[dict[str, Any]]:
        """Return its limits as peers.declare_limits takes them.

        Raises `BadLimit` if its args never have a value at the path of a key or weight.
        """
        for limit in self.limits:
            self.require_limit_paths(limit.key, limit.weight)
        return [
            limit.document(name=self.name_of_limit(limit), kind=self.kind) for limit in self.limits
        ]

    def require_limit_paths(self, key: str | None, weight: str | None) -> None:
        """Raise `BadLimit` if its args never have a value at one of these paths of a limit."""
        self.resolve()
        require_paths(self.kind, key, weight, self._signature.args.types_at)

    def name_of_limit(self, limit: Limit) -> str:
        """Return the name of a limit: the kind, unless it has its own."""
        return limit.name or self.kind

    def declared_schedules(self) -> list[dict[str, Any]]:
        """Return its schedules as peers.declare_schedules takes them.

        Raises `ArgsInvalid` if the args of one do not fit the function.
        """
        return [
            schedule.document(
                name=self.name_of_schedule(schedule), kind=self.kind, queue=self.queue,
                priority=self.priority, args=self.dump_args(schedule.args),
            )
            for schedule in self.schedules
        ]  # fmt: skip

    def name_of_schedule(self, schedule: Schedule) -> str:
        """Return the name of a schedule: the kind, unless it has its own."""
        return schedule.name or self.kind

    def dump_args(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Return the args as JSON types, after checking that `load_args` can read them.

        Raises `ArgsInvalid` when one is missing, unknown or of another type than its annotation.
        """
        self.resolve()
        codec = self._signature.args
        try:
            dumped: dict[str, Any] = codec.dump(args)
            if not codec.is_plain:
                codec.load(dumped)
        except (ConversionError, RecursionError) as error:
            raise self._args_invalid(error) from None
        return dumped

    def load_args(self, data: Mapping[str, Any]) -> Any:
        """Return the args as the function takes them: by name, or as an element of its list.

        Raises `ArgsInvalid`, as `dump_args` does.
        """
        if not self._is_resolved:
            self.resolve()
        try:
            return self._signature.args.load(data)
        except (ConversionError, RecursionError) as error:
            raise self._args_invalid(error) from None

    def takes_all_as_they_are(self, data: Sequence[Any]) -> bool:
        """Return whether the args of all these tasks fit, and need no conversion.

        Also false when it is not known yet. It runs no code of users.
        """
        args = self._signature.args
        return self._is_resolved and isinstance(args, Fields) and args.fit_all(data)

    @property
    def stores_results_as_they_are(self) -> bool:
        """Return whether `dump_result` returns what it gets; False while it is not known yet."""
        return self._is_resolved and (self._result is None or self._result.is_plain)

    def _args_invalid(self, error: ConversionError | RecursionError) -> ArgsInvalid:
        return ArgsInvalid(f"args do not fit {self.kind}: {_describe(error, 'args')}")

    def dump_result(self, value: Any) -> Any:
        """Return a task's result as JSON types, after checking that `load_result` can read it.

        A result whose annotation JSON has itself is returned as it is, unchecked. Raises
        `ResultInvalid`.
        """
        if not self._is_resolved:
            self.resolve()
        if self._result is None or self._result.is_plain:
            return value
        try:
            dumped = self._result.dump(value)
            self._result.load(dumped)
        except (ConversionError, RecursionError) as error:
            raise self._result_invalid(error) from None
        return dumped

    def load_result(self, data: Any) -> Any:
        """Return a task's result as its handler returned it. Raises `ResultInvalid`."""
        self.resolve()
        try:
            return data if self._result is None else self._result.load(data)
        except (ConversionError, RecursionError) as error:
            if self._result is not None and self._result.is_plain:
                return data  # it was not checked when it was stored
            raise self._result_invalid(error) from None

    def _result_invalid(self, error: ConversionError | RecursionError) -> ResultInvalid:
        return ResultInvalid(
            f"the result of {self.kind} does not fit its annotation: {_describe(error, 'result')}"
        )

    def resolve(self) -> None:
        """Resolve the result's annotation, and those of args that name a class below the function.

        Warns of each argument that cannot be checked, because its annotation cannot be resolved.
        """
        if self._is_resolved:
            return
        result = result_of(self.function, is_batch=self.batch_size is not None)
        object.__setattr__(self, "_result", result)
        if self._signature.unresolved:
            self._read_signature()
        object.__setattr__(self, "_is_resolved", True)  # last, because other threads rely on it
        if not self._signature.unresolved:
            return
        taken = (
            "is not checked" if self.batch_size is None else "is taken as a list of JSON objects"
        )
        for name, annotation in self._signature.unresolved.items():
            code = getattr(innermost(self.function), "__code__", None)
            file, line = (code.co_filename, code.co_firstlineno) if code else (self.kind, 0)
            text = (
                f"{name_of(self.function)}: {name!r} {taken}, because its annotation {annotation} "
                "cannot be resolved at run time; import what it names outside of TYPE_CHECKING"
            )
            warnings.warn_explicit(text, UserWarning, file, line)

    def _read_signature(self) -> None:
        read = of_keywords if self.batch_size is None else of_rows
        object.__setattr__(self, "_signature", read(self.function))


def _describe(error: ConversionError | RecursionError, root: str) -> str:
    if isinstance(error, ConversionError):
        return error.describe(root)
    return f"{root}: nested too deeply; pass fewer levels"


def _is_storable(text: str) -> bool:
    return "\0" not in text and text.encode(errors="replace") == text.encode(errors="surrogatepass")


def _require(fits: bool, name: str, bound: str, value: object) -> None:
    if not fits:
        written = format_span(value) if isinstance(value, timedelta) else repr(value)
        raise ValueError(f"{name} must be {bound}, not {written}")


_registry: dict[str, Handler] = {}
_limits: dict[str, str] = {}
"""The kinds that declare a limit, by its name."""
_schedules: dict[str, str] = {}
"""The kinds that declare a schedule, by its name."""


def register(handler: Handler) -> None:
    """Make `handler` the handler of its kind.

    Raises `ValueError` when the kind has another function already.
    """
    other = _registry.get(handler.kind)
    if other is not None and name_of(other.function) != name_of(handler.function):
        raise ValueError(
            f"kind {handler.kind!r} already has the handler {name_of(other.function)}; "
            f"give {name_of(handler.function)} another kind"
        )
    for name in map(handler.name_of_limit, handler.limits):
        owner = _limits.setdefault(name, handler.kind)
        if owner != handler.kind:
            raise BadLimit(
                f"kind {owner!r} already has a limit {name!r}",
                f"Give the limit of {handler.kind!r} another name. A limit for several kinds is one"
                " of their queue: `peers limit set NAME --queue QUEUE --max-running N`.",
            )
    for name in map(handler.name_of_schedule, handler.schedules):
        owner = _schedules.setdefault(name, handler.kind)
        if owner != handler.kind:
            raise BadSchedule(
                f"kind {owner!r} already has a schedule {name!r}",
                f"Give the schedule of {handler.kind!r} another name.",
            )
    _registry[handler.kind] = handler


def registry() -> Mapping[str, Handler]:
    """Return all handlers, by kind."""
    return MappingProxyType(_registry)


def find(kind: str) -> Handler | None:
    """Return the handler of a kind, or None."""
    return _registry.get(kind)
