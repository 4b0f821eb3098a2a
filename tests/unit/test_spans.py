"""Durations: every place reads the same forms, and refuses others in the same words."""

from __future__ import annotations

import inspect
import math
import random
import re
from datetime import timedelta
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

import peers
from peers import Limit, Retry, Schedule, Snooze, context
from peers.cli import argument_types
from peers.cli import submit as cli_submit
from peers.client import limit_operations, operations, schedule_operations
from peers.client.options import OptionFields, Options
from peers.predict.variables import BATCH_WAIT, batch_wait
from peers.settings import Settings
from peers.spans import FORMS, age_of, format_span, seconds_of, timedelta_of

if TYPE_CHECKING:
    from collections.abc import Callable

FOUR_SECONDS = (
    "4", "4.0", "4s", "4 s", " 4s ", "4000ms", "3.5s 500ms", "4 sec", "4 seconds",
    "3s1000 milliseconds", "PT4S", "P0DT4S", 4, 4.0, Decimal(4), timedelta(seconds=4),
)  # fmt: skip
NO_DURATION = (
    "soon", "", "4x", "4 parsecs", "4s!", "P", "PT", "s", "-4s", "1e3", [4], True, b"4",
)  # fmt: skip

_kinds = count()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("1h30m", 5400), ("1h 30m", 5400), ("1 hour", 3600), ("2 hours", 7200),
        ("1 hour 30 minutes", 5400), ("1 min", 60), ("2 days", 172800), ("1 week", 604800),
        ("1.5h", 5400), ("500ms", 0.5), ("PT1M", 60), ("P1DT12H", 129600), ("P1W", 604800),
        ("-5", -5), ("0", 0), ("1d12h", 129600),
    ],
)  # fmt: skip
def test_texts_are_read(text: str, seconds: float) -> None:
    """Units as letters and as words, sums of them, ISO 8601, and plain seconds."""
    assert seconds_of(text) == pytest.approx(seconds)
    assert timedelta_of(text) == timedelta(seconds=seconds)


def _handler(rows: list[Any]) -> list[Any]:
    return rows


def of_every(value: Any) -> float:
    """Read the duration between two runs of a task."""
    made = peers.task(f"spans.{next(_kinds)}", every=value)(_handler)
    return seconds_of(made.handler.schedules[0].document()["every"])


def of_task(name: str) -> Callable[[Any], float]:
    """Return what reads a duration of `@task`."""
    more: dict[str, Any] = {"batch_wait": {"batch_size": 2}}.get(name, {})

    def read(value: Any) -> float:
        decorator: Any = peers.task
        made = decorator(f"spans.{next(_kinds)}", **{name: value}, **more)(_handler)
        found: timedelta = getattr(made.handler, name)
        return found.total_seconds()

    return read


def of_schedule(name: str) -> Callable[[Any], float]:
    """Return what reads a duration of a Schedule."""
    when = {} if name == "every" else {"cron": "@daily"}
    return lambda value: seconds_of(Schedule(**when, **{name: value}).document()[name])  # type: ignore[arg-type]


def of_added_schedule(name: str) -> Callable[[Any], float]:
    """Return what reads a duration of `add_schedule`."""
    when: dict[str, Any] = {} if name == "every" else {"cron": "@daily"}
    return of_request(
        name, lambda value: schedule_operations.add_schedule("s", "a", **{**when, name: value})
    )


def of_request(name: str, build: Callable[[Any], Any]) -> Callable[[Any], float]:
    """Return what reads a duration of an operation of the client."""
    return lambda value: seconds_of(build(value).document[name])


def of_option(name: str) -> Callable[[Any], float]:
    """Return what reads a duration of a submission."""
    more: dict[str, Any] = {}
    if name in ("wait", "max_wait"):
        more = {"unique_key": "k", "on_duplicate": "debounce", "wait": 4}
    elif name == "unique_while":
        more = {"unique_key": "k"}
    return of_request(name, lambda value: operations.submit("a", **{**more, name: value}))


def of_cooldown(value: Any) -> float:
    """Read the duration of a cooldown."""
    sent: list[Any] = []

    class Worker:
        def call(self, _id: int, _verb: str, payload: Any) -> float:
            sent.append(payload["seconds"])
            return 0.0

    task: Any = object.__new__(context.CurrentTask)
    object.__setattr__(task, "_scheduler", Worker())
    object.__setattr__(task, "execution_id", 1)
    context.CurrentTask.cooldown(task, value)
    found: float = sent[0]
    return found


def of_environment(value: Any) -> float:
    """Read the variable of predictions, which only has texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(BATCH_WAIT, value)
        return batch_wait().total_seconds()


IN_PYTHON: dict[str, Callable[[Any], float]] = {
    "Limit.per": lambda value: seconds_of(Limit(starts=1, per=value).document()["per"]),
    "set_limit.per": of_request("per", lambda value: limit_operations.set_limit("l", per=value)),
    "shut_limit.seconds": of_request(
        "seconds", lambda value: limit_operations.shut_limit("l", seconds=value)
    ),
    "change.delay": of_request("delay", lambda value: operations.change(1, delay=value)),
    "change.timeout": of_request("timeout", lambda value: operations.change(1, timeout=value)),
    "Retry.in_": lambda value: Retry(value).in_ or 0.0,
    "Snooze.in_": lambda value: Snooze(value).in_ or 0.0,
    "CurrentTask.cooldown": of_cooldown,
    **{
        f"task.{name}": of_task(name)
        for name in ("timeout", "backoff", "backoff_cap", "batch_wait")
    },
    "task.every": of_every,
    **{
        f"{place}.{name}": read
        for name in ("every", "catch_up", "jitter", "expect_within")
        for place, read in (
            ("Schedule", of_schedule(name)),
            ("add_schedule", of_added_schedule(name)),
        )
    },
    "add_schedule.timeout": of_request(
        "timeout",
        lambda value: schedule_operations.add_schedule("s", "a", every=60, timeout=value),
    ),
    **{
        f"submit.{name}": of_option(name)
        for name in ("delay", "timeout", "unique_while", "wait", "max_wait")
    },
}  # fmt: skip
AS_TEXT: dict[str, Callable[[Any], float]] = {
    "the command line": lambda value: argument_types.duration(value).total_seconds(),
    "--unique-while": lambda value: seconds_of(cli_submit._unique_while(value)),
    BATCH_WAIT: of_environment,
}
SETTING = "lease_timeout"
PLACES: dict[str, Callable[[Any], float]] = {
    **IN_PYTHON, **AS_TEXT,
    SETTING: lambda value: Settings(**{SETTING: value}).lease_timeout.total_seconds(),
}  # fmt: skip


@pytest.mark.parametrize("place", [*PLACES])
def test_every_place_reads_the_same_forms(place: str) -> None:
    """Texts everywhere; numbers and timedeltas wherever Python is written."""
    read = PLACES[place]
    for value in FOUR_SECONDS:
        if isinstance(value, str) or place not in AS_TEXT:
            assert read(value) == pytest.approx(4), (place, value)


@pytest.mark.parametrize("place", [*PLACES])
def test_every_place_refuses_others_in_the_same_words(place: str) -> None:
    """The error names the value and the forms."""
    read = PLACES[place]
    for value in NO_DURATION:
        if place in AS_TEXT and (not isinstance(value, str) or not value):
            continue
        with pytest.raises(Exception, match=re.escape(FORMS)) as caught:
            read(value)
        assert str(value).lower() in str(caught.value).lower(), (place, value)


@pytest.mark.parametrize("place", [*IN_PYTHON])
def test_numbers_without_an_end_are_refused_everywhere(place: str) -> None:
    """With a bound or the forms, and never with an OverflowError."""
    for value in (math.nan, math.inf, -math.inf, 1e300, 10**400):
        with pytest.raises((peers.PeersError, ValueError), match=" must be "):
            IN_PYTHON[place](value)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (0, "0s"), (5400, "1h30m"), (1.5, "1.5s"), (0.5, "500ms"), (0.001, "1ms"), (-1, "-1s"),
        (timedelta(days=1000), "1000d"), (timedelta(days=1, hours=12), "1d12h"),
        (3600.5, "1h500ms"), (timedelta(microseconds=1), "0.001ms"), (math.inf, "inf"),
        (math.nan, "nan"), ("1000d", "'1000d'"), (True, "True"), ([4], "[4]"),
    ],
)  # fmt: skip
def test_durations_are_written_as_users_write_them(span: object, text: str) -> None:
    """A text and what is no duration stay as they are."""
    assert format_span(span) == text


def test_what_is_written_can_be_read_again() -> None:
    """Each duration of up to a century comes back, to the microsecond."""
    dice = random.Random(4)
    for _ in range(2000):
        span = timedelta(microseconds=dice.randrange(10 ** dice.randrange(1, 16)))
        assert timedelta_of(format_span(span)) == span


@pytest.mark.parametrize("place", [*IN_PYTHON])
def test_every_place_prints_a_duration_in_the_same_form(place: str) -> None:
    """A duration out of bounds is named as users write it, not as Python or SQL does."""
    said = []
    for value in (timedelta(days=-41, hours=-1), timedelta(days=400_000, hours=1)):
        try:
            IN_PYTHON[place](value)
        except (peers.PeersError, ValueError) as error:
            said += [str(error)] if ", not " in str(error) else []
    assert all(re.search(r"-41d1h|400000d1h", each) for each in said), said
    assert not any(re.search(r"timedelta|[0-9]:[0-9][0-9]", each) for each in said), said


def test_no_place_is_missing_here() -> None:
    """Each parameter and option that takes a duration is read above."""
    found = set()
    modules = (operations, limit_operations, schedule_operations)
    functions: list[Any] = [
        each for module in modules for each in vars(module).values() if inspect.isfunction(each)
    ]
    functions += [Limit, Schedule, Retry, Snooze, peers.task]
    for function in functions:
        is_helper = function.__module__ in ("peers.spans", "peers.limits")
        if (is_helper and function is not Limit) or function.__name__.startswith("_"):
            continue
        for name, parameter in inspect.signature(function).parameters.items():
            if re.search(r"\bSpan\b", str(parameter.annotation)):
                found.add(f"{function.__name__}.{name}")
    fields = {"submit": OptionFields, "set_limit": limit_operations.LimitFields}
    for place, typed in fields.items():
        for name, annotation in typed.__annotations__.items():
            if re.search(r"\bSpan\b", str(annotation)):
                found.add(f"{place}.{name}")
    assert len(found) > 20
    assert found <= set(IN_PYTHON), found - set(IN_PYTHON)


def test_options_keep_words_and_durations_apart() -> None:
    """unique_while is a word or a duration."""
    assert Options(unique_while="waiting").unique_while == "waiting"
    document = operations.submit("a", unique_key="k", unique_while="unfinished").document
    assert document["unique_while"] == "unfinished"
    document = operations.submit("a", unique_key="k", unique_while="10 min").document
    assert document["unique_while"] == "600.000000 seconds"


def test_an_age_has_a_unit() -> None:
    """What is older may be deleted, and 30 seconds are hardly meant by 30."""
    assert age_of("30d") == age_of(timedelta(days=30)) == age_of("P30D") == timedelta(days=30)
    for nothing in ("0", 0, "0s", timedelta(0)):
        assert age_of(nothing) == timedelta(0)
    for number in ("30", " 1.5 ", 30, 0.5):
        with pytest.raises(ValueError, match="must have a unit"):
            age_of(number)
