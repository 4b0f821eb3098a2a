"""`@task`: make a function the handler of a kind, and check the policy that it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from peers.client.task import BatchTask, Task
from peers.errors import BadLimit, BadSchedule
from peers.handlers import DEFAULT_BACKOFF, DEFAULT_BACKOFF_CAP, Handler, KeepLog, register
from peers.limits import Limit
from peers.schedules import Schedule
from peers.spans import Span, timedelta_of
from peers.types import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_QUEUE

P = ParamSpec("P")
R = TypeVar("R")


class _Policy(TypedDict, total=False):
    queue: str
    priority: int
    max_attempts: int
    timeout: Span | None
    backoff: Span
    backoff_cap: Span
    keep_log: bool | Literal["always"]
    limit: Limit | Iterable[Limit]
    cron: str | None
    every: Span | None
    timezone: str | None
    schedules: Iterable[Schedule]


@overload
def task(
    kind: str, *, batch_size: None = None, **policy: Unpack[_Policy]
) -> Callable[[Callable[P, R]], Task[P, R]]: ...
@overload
def task(
    kind: str, *, batch_size: int, batch_wait: Span = 0, **policy: Unpack[_Policy]
) -> Callable[[Callable[[list[Any]], R]], BatchTask[R]]: ...
def task(
    kind: str,
    *,
    queue: str = DEFAULT_QUEUE,
    priority: int = DEFAULT_PRIORITY,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    timeout: Span | None = None,
    backoff: Span = DEFAULT_BACKOFF,
    backoff_cap: Span = DEFAULT_BACKOFF_CAP,
    batch_size: int | None = None,
    batch_wait: Span = 0,
    keep_log: bool | Literal["always"] = False,
    limit: Limit | Iterable[Limit] = (),
    cron: str | None = None,
    every: Span | None = None,
    timezone: str | None = None,
    schedules: Iterable[Schedule] = (),
) -> Callable[[Callable[..., Any]], Any]:
    """Make a function, plain or async, the handler of a kind.

    With a batch_size it is called with a list: the args of up to that many tasks. The call begins
    when the list is full, or when its first task has waited for batch_wait. It returns a result, or
    an exception, for each task, in the same order. When it raises, or its worker dies, the batch is
    bisected until the failing tasks are isolated; only these fail. Retry, Reject and the timeout
    apply to all tasks of the call.

    keep_log: keep the last 64 KiB of what each failed attempt has printed and logged; "always":
    also of completed ones. `peers log ID` and the table peers.task_log show them.

    limit: how many of its tasks run at once, or start in a period, in all peers together; one Limit
    or several, which all hold.

    With cron or every, the peers submit a task of this kind at each due time, by the clocks of
    timezone (UTC, if left out). The schedule has the name of the kind. schedules: schedules with
    more options, or several of them; see Schedule.

    A duration is a timedelta, seconds, or a text such as "90s", "1h30m" or "1 hour". The wait after
    a failed attempt is a random part of backoff * 2^(attempt - 1), at most backoff_cap. Raises
    ValueError for values out of bounds and for a kind that already has another function, BadLimit
    and BadSchedule.
    """
    if not isinstance(kind, str):
        raise ValueError(f'kind must be a string: write @task("some.kind"), not {kind!r}')
    _require_policy(kind, queue, timezone, priority, max_attempts, batch_size)
    limits = _limits(limit)

    declared = _schedules(schedules)
    if cron is not None or every is not None:
        declared = (Schedule(cron=cron, every=every, timezone=timezone or "UTC"), *declared)
    elif timezone is not None:
        raise BadSchedule(
            f"timezone of {kind!r} belongs to cron or every, and neither is set",
            'Set cron, or pass it in schedules: Schedule(cron=…, timezone="Europe/Berlin").',
        )

    def span(name: str, value: Span) -> timedelta:
        try:
            return timedelta_of(value)
        except ValueError as error:
            raise ValueError(f"{name} of {kind!r} {error}, not {value!r}") from None

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        handler = Handler(
            kind,
            function,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            timeout=None if timeout is None else span("timeout", timeout),
            backoff=span("backoff", backoff),
            backoff_cap=span("backoff_cap", backoff_cap),
            batch_size=batch_size,
            batch_wait=span("batch_wait", batch_wait),
            keep_log=_kept(keep_log),
            limits=limits,
            schedules=declared,
        )
        register(handler)
        return Task(handler) if batch_size is None else BatchTask(handler)

    return decorate


def _kept(keep_log: object) -> KeepLog:
    """Return which logs are kept. `Handler` refuses what is neither a boolean nor "always"."""
    if isinstance(keep_log, bool):
        return "failed" if keep_log else ""
    return keep_log if keep_log == "always" else repr(keep_log)  # type: ignore[return-value]


def _require_policy(
    kind: str,
    queue: object,
    timezone: object,
    priority: object,
    max_attempts: object,
    batch_size: object,
) -> None:
    """Refuse texts and numbers of another type. Raises ValueError."""
    for name, text in (("queue", queue), ("timezone", "UTC" if timezone is None else timezone)):
        if not isinstance(text, str):
            raise ValueError(f"{name} of {kind!r} must be a string, not {text!r}")
    numbers = {"priority": priority, "max_attempts": max_attempts}
    if batch_size is not None:
        numbers["batch_size"] = batch_size
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{name} of {kind!r} must be a whole number, not {number!r}")


def _schedules(schedules: object) -> tuple[Schedule, ...]:
    """Return the schedules as a tuple. Raises BadSchedule for anything else."""
    several = tuple(schedules) if isinstance(schedules, Iterable) else (schedules,)
    if isinstance(schedules, Mapping) or not all(isinstance(each, Schedule) for each in several):
        raise BadSchedule(
            f"schedules must be a list of Schedule, not {schedules!r}",
            'For example, schedules=[Schedule(cron="0 4 * * *")].',
        )
    return several


def _limits(limit: Limit | Iterable[Limit]) -> tuple[Limit, ...]:
    """Return one or several limits as a tuple. Raises BadLimit for anything else."""
    several = tuple(limit) if isinstance(limit, Iterable) else (limit,)
    if isinstance(limit, Mapping) or not all(isinstance(each, Limit) for each in several):
        raise BadLimit(
            f"limit must be a Limit or several, not {limit!r}", "For example, limit=Limit(4)."
        )
    return several
