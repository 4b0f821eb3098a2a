"""Handlers: their bounds, and how args are fitted to a signature."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from peers.errors import ArgsInvalid
from peers.handlers import Handler, register, registry
from peers.types import MAX_ATTEMPTS_MAX, PRIORITY_MAX


def fit(function: Callable[..., Any], **args: Any) -> dict[str, Any]:
    """The args as the function gets them."""
    checked: dict[str, Any] = Handler("k", function).load_args(args)
    return checked


def test_args_are_checked_and_turned_into_what_the_annotations_say() -> None:
    """JSON has no dates, paths and durations; the annotations say which text is one."""

    def handler(
        day: date, at: datetime, path: Path, n: int = 1, *, flags: list[bool] | None = None
    ) -> None:
        """Takes all sorts."""

    assert fit(handler, day="2026-11-23", at="2026-11-23T10:00:00Z", path="/x", flags=[True]) == {
        "day": date(2026, 11, 23),
        "at": datetime(2026, 11, 23, 10, tzinfo=UTC),
        "path": Path("/x"),
        "flags": [True],
    }


@pytest.mark.parametrize(
    ("args", "named"),
    [({}, "n"), ({"n": "many"}, "n"), ({"n": 1, "m": 2}, "m"), ({"n": None}, "n")],
)
def test_what_does_not_fit_is_named(args: dict[str, Any], named: str) -> None:
    """Missing, of another type, unknown, null."""

    def handler(n: int) -> None:
        """Takes a number."""

    with pytest.raises(ArgsInvalid, match=rf"args do not fit k: .*{named}"):
        fit(handler, **args)


def test_args_without_annotations_and_with_keywords_take_anything() -> None:
    """**kwargs takes what the others leave."""

    def handler(a, **others) -> None:  # type: ignore[no-untyped-def]
        """Takes anything."""

    assert fit(handler, a=[1], b={"c": None}) == {"a": [1], "b": {"c": None}}


@pytest.mark.parametrize("name", ["self", "class", "shape", "__pydantic_config__", "items"])
def test_an_argument_may_have_any_name(name: str) -> None:
    """Also one that means something elsewhere."""

    def handler(**others: Any) -> None:
        """Takes anything."""

    assert fit(handler, **{name: 1}) == {name: 1}


def test_a_positional_only_argument_is_refused_when_it_is_declared() -> None:
    """A JSON object cannot carry it; better to hear that at the start than at the first task."""

    def handler(n: int, /) -> None:
        """Cannot be called by name."""

    with pytest.raises(TypeError, match="'n' is positional-only"):
        Handler("k", handler)


def nothing() -> None:
    """Does nothing."""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": ""}, "kind"),
        ({"kind": "x" * 201}, "kind"),
        ({"queue": ""}, "queue"),
        ({"priority": PRIORITY_MAX + 1}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": MAX_ATTEMPTS_MAX + 1}, "max_attempts"),
        ({"timeout": timedelta(0)}, "timeout"),
        ({"timeout": timedelta(days=31)}, "timeout"),
        ({"backoff": timedelta(seconds=-1)}, "backoff"),
        ({"backoff": timedelta(hours=2)}, "backoff"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_bound(options: dict[str, Any], named: str) -> None:
    """The complaint says which value, what it may be, and what it is."""
    with pytest.raises(ValueError, match=rf"{named}.* must be .*, not "):
        Handler(**{"kind": "k", "function": nothing, **options})


def test_a_kind_has_one_handler() -> None:
    """Another function for the same kind is refused and both are named; the same one again, as
    after a reload of its module, is not.
    """
    register(Handler("tests.unit.handlers.once", nothing))
    register(Handler("tests.unit.handlers.once", nothing))
    with pytest.raises(
        ValueError, match=r"already has the handler .*nothing; give .*fit another kind"
    ):
        register(Handler("tests.unit.handlers.once", fit))
    assert registry()["tests.unit.handlers.once"].function is nothing
