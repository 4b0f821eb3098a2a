"""The options of a submission: their bounds, and how they are written in its JSON document."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeAlias, TypedDict

from peers.client.node import Node
from peers.client.unique import require_fitting, require_known_on_duplicate
from peers.errors import BadTask
from peers.spans import FORMS, Span, format_span, seconds_of, sql_interval
from peers.types import (
    IDEMPOTENCY_KEY_MAX_LENGTH,
    MAX_ATTEMPTS_MAX,
    NAME_MAX_LENGTH,
    PRIORITY_MAX,
    PRIORITY_MIN,
    TIMEOUT_MAX,
    TIMEOUT_MIN,
    UNIQUE_KEY_MAX_LENGTH,
    UNIQUE_SPAN_MAX,
    UNIQUE_SPAN_MIN,
    OnDuplicate,
    ParentFailure,
    UniqueWhile,
)

_DELAY_MAX = 100 * 365 * 86400.0

_OPTION_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "queue": ((str,), "a string"),
    "priority": ((int,), "a whole number"),
    "scheduled_at": ((datetime,), "a datetime"),
    "max_attempts": ((int,), "a whole number"),
    "depends_on": ((Sequence, Set), "the ids of tasks"),
    "idempotency_key": ((str,), "a string"),
    "metadata": ((Mapping,), "a JSON object"),
    "graph": ((int,), "the id of a graph"),
    "unique_key": ((str,), "a string"),
    "on_duplicate": ((str,), '"keep", "replace" or "debounce"'),
}

Document: TypeAlias = dict[str, Any]
"""A task as peers.submit and peers.submit_graph name its fields; plain JSON."""


class OptionFields(TypedDict, total=False):
    """The options of a submission, as keywords."""

    queue: str
    priority: int
    scheduled_at: datetime
    delay: Span
    max_attempts: int
    timeout: Span
    depends_on: Sequence[int | Node]
    on_parent_failure: ParentFailure | str
    idempotency_key: str
    metadata: Mapping[str, object]
    graph: int
    unique_key: str
    unique_while: UniqueWhile | Span
    on_duplicate: OnDuplicate | str
    wait: Span
    max_wait: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a task is submitted. None takes the value of the kind's handler, or the default.

    A duration is a timedelta, seconds, or a text such as "90s", "1h30m" or "1 hour".

    queue: 1 to 200 characters. priority: a smaller one runs first. scheduled_at: the task starts no
    earlier, with a time zone. delay: the same, counted from now by the database's clock.
    max_attempts: 1 to 1000. timeout: of one attempt, 1 ms to 30 days. depends_on: the parents, as
    ids or as nodes of a graph. on_parent_failure: "hold", "cancel" or "run". idempotency_key: 1 to
    500 characters. metadata: a JSON object of at most 1 MiB. graph: the id of a graph that the task
    is added to.

    unique_key: 1 to 400 characters; tasks of one kind with the same key exist once. unique_while:
    how long a task holds the key: "waiting" (until it starts; the default), "unfinished" (until it
    has ended), or a duration from its submission. on_duplicate: what a submission does while
    another task holds the key: "keep" that task as it is (the default); "replace" its args and
    options, if it has not started; "debounce": the same, and the task starts when `wait` has passed
    without another submission, at the latest `max_wait` after the first one.

    Raises BadTask, which names the option and its bound.
    """

    queue: str | None = None
    priority: int | None = None
    scheduled_at: datetime | None = None
    delay: Span | None = None
    max_attempts: int | None = None
    timeout: Span | None = None
    depends_on: Sequence[int | Node] = ()
    on_parent_failure: ParentFailure | str = ParentFailure.HOLD
    idempotency_key: str | None = None
    metadata: Mapping[str, object] | None = None
    graph: int | None = None
    unique_key: str | None = None
    unique_while: UniqueWhile | Span | None = None
    on_duplicate: OnDuplicate | str | None = None
    wait: Span | None = None
    max_wait: Span | None = None

    def __post_init__(self) -> None:
        for name, (kinds, say) in _OPTION_TYPES.items():
            value = getattr(self, name)
            if value is None and name != "depends_on":
                continue
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise BadTask(f"{name} must be {say}, not {value!r}")
        parents: Collection[object] = self.depends_on
        if isinstance(parents, str | bytes) or any(
            isinstance(each, bool) or not isinstance(each, int | Node) for each in parents
        ):
            raise BadTask(
                f"depends_on must hold ids of tasks or nodes of a graph, not "
                f"{list(self.depends_on)!r}"
            )
        _bounded("queue", _length(self.queue), 1, NAME_MAX_LENGTH, " characters")
        _bounded("priority", self.priority, PRIORITY_MIN, PRIORITY_MAX)
        _bounded("max_attempts", self.max_attempts, 1, MAX_ATTEMPTS_MAX)
        _bounded_span("timeout", self.timeout, TIMEOUT_MIN, TIMEOUT_MAX)
        _bounded_span("delay", self.delay, 0, _DELAY_MAX)
        key_length = _length(self.idempotency_key)
        _bounded("idempotency_key", key_length, 1, IDEMPOTENCY_KEY_MAX_LENGTH, " characters")
        _bounded("unique_key", _length(self.unique_key), 1, UNIQUE_KEY_MAX_LENGTH, " characters")
        require_known_on_duplicate(self)
        for name in ("wait", "max_wait"):
            _bounded_span(name, getattr(self, name), UNIQUE_SPAN_MIN, UNIQUE_SPAN_MAX)
        if self.unique_while not in list(UniqueWhile):
            bound = 'must be "waiting", "unfinished" or ' + FORMS
            _bounded_span(
                "unique_while", self.unique_while, UNIQUE_SPAN_MIN, UNIQUE_SPAN_MAX, bound
            )
        if self.scheduled_at is not None and self.scheduled_at.tzinfo is None:
            raise BadTask(
                f"scheduled_at {self.scheduled_at} has no time zone",
                "Give it one, such as datetime.now(timezone.utc), or use delay=….",
            )
        if self.scheduled_at is not None and self.delay is not None:
            raise BadTask("scheduled_at and delay exclude each other", "Pass one of them.")
        if self.on_parent_failure not in list(ParentFailure):
            raise BadTask(
                f'on_parent_failure must be "hold", "cancel" or "run", not '
                f'"{self.on_parent_failure}"'
            )


def options_from(
    fields: Mapping[str, Any], base: Options | None = None, *, beside_args: bool = False
) -> Options:
    """Return the options with these fields, and otherwise those of `base`.

    beside_args: they follow a dict with the args of the task. Raises BadTask.
    """
    known = [field.name for field in dataclasses.fields(Options)]
    for name in fields:
        if name not in known:
            hint = f"The options are {', '.join(known)}."
            if beside_args:
                hint = f'If it is an arg of the task, pass it in the dict: {{"{name}": …}}. {hint}'
            raise BadTask(f'there is no option "{name}"', hint)
    return Options(**fields) if base is None else replace(base, **fields)


def options_document(
    kind: str, options: Options, *, unique_keys: Sequence[str | None] | None = None
) -> Document:
    """Return the document of a submission without its args and metadata. Raises BadTask, BadGraph.

    unique_keys: those of several tasks. It imports nothing that is slow to import: `peers submit`
    needs no more than this.
    """
    require_fitting(options, has_key=options.unique_key is not None or unique_keys is not None)
    if not 1 <= len(kind) <= NAME_MAX_LENGTH:
        raise BadTask(f"kind must have 1 to {NAME_MAX_LENGTH} characters, not {len(kind)}")
    fields: Document = {
        "kind": kind,
        "queue": options.queue,
        "priority": options.priority,
        "scheduled_at": options.scheduled_at and options.scheduled_at.isoformat(),
        "delay": sql_interval(options.delay),
        "max_attempts": options.max_attempts,
        "timeout": sql_interval(options.timeout),
        "depends_on": [
            parent.id if isinstance(parent, Node) else parent for parent in options.depends_on
        ]
        or None,
        "on_parent_failure": str(options.on_parent_failure),
        "idempotency_key": options.idempotency_key,
        "graph_id": options.graph,
        "unique_key": options.unique_key,
        "unique_keys": unique_keys,
        "unique_while": str(options.unique_while)
        if options.unique_while in list(UniqueWhile)
        else sql_interval(options.unique_while),
        "on_duplicate": options.on_duplicate and str(options.on_duplicate),
        "wait": sql_interval(options.wait),
        "max_wait": sql_interval(options.max_wait),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _length(text: str | None) -> int | None:
    return None if text is None else len(text)


def _bounded_span(
    name: str, span: Span | None, low: float, high: float, bound: str = f"must be {FORMS}"
) -> None:
    if span is None:
        return
    try:
        seconds = seconds_of(span)
    except ValueError:
        raise BadTask(f"{name} {bound}, not {format_span(span)}") from None
    if not low <= seconds <= high:
        raise BadTask(
            f"{name} must be {format_span(low)} to {format_span(high)}, not {format_span(span)}"
        )


def _bounded(name: str, value: float | None, low: float, high: float, unit: str = "") -> None:
    if value is not None and not low <= value <= high:
        raise BadTask(f"{name} must be {low:g} to {high:.10g}{unit}, not {value:.10g}")
