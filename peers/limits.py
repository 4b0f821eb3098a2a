"""A limit as code declares it: how many tasks run at once, and how many start in a period."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import timedelta
from typing import Any, Final

from peers.errors import BadLimit
from peers.spans import Span, format_span, sql_interval, timedelta_of
from peers.types import NAME_MAX_LENGTH

MOST_TOGETHER: Final = 4
"""How many limits may hold for one task."""
COUNT_MAX: Final = 1_000_000
PER_MIN: Final = timedelta(milliseconds=10)
PER_MAX: Final = timedelta(days=30)
_PATH: Final = re.compile(r"[^.\x00-\x1f\x7f]{1,100}(\.[^.\x00-\x1f\x7f]{1,100}){0,9}")
_NUMBERS: Final = frozenset({int, float})

TypesAt = Callable[[tuple[str, ...]], frozenset[type]]
"""Returns the JSON types that args may have at a path; none: they never have a value there."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many tasks of a kind run at once, and how many start in a period, in all peers together.

    max_running: how many run at once, 1 to 1,000,000. key: a path into args, such as "account_id"
    or "customer.id"; the limit then holds for each value on its own. starts and per: how many start
    in any period, such as 10 in "1s"; per is a timedelta, seconds or a text, 10 ms to 30 days.
    weight: a path to a number in args; max_running then bounds the sum of the weights. fair: the
    next task comes from the key that has the fewest running tasks. learns: a cooldown halves
    max_running, and each quiet minute raises it again. name: the kind, if left out.

    Raises BadLimit for a value out of bounds.
    """

    max_running: int | None = None
    _: KW_ONLY
    key: str | None = None
    starts: int | None = None
    per: Span | None = None
    weight: str | None = None
    fair: bool = False
    learns: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        check_values(self.document())
        if (self.starts is None) != (self.per is None):
            raise BadLimit(
                "starts and per belong together",
                'Pass both, such as starts=10, per="1s", or neither.',
            )
        if self.max_running is None and self.starts is None and not self.fair:
            raise BadLimit(
                "a limit needs max_running, or starts and per, or fair",
                "Write Limit(4) to let four tasks run at once.",
            )
        self._require_max_running("weight", self.weight, "bounds the sum of the weights")
        self._require_max_running("learns", self.learns or None, "is the most that it may rise to")
        if self.fair and self.key is None:
            raise BadLimit(
                "fair needs a key: the next task comes from another value of it",
                'Pass one, such as key="account_id".',
            )

    def document(self, **more: object) -> dict[str, Any]:
        """Return the columns of peers.limit that it sets, as JSON, with these others."""
        columns = {
            "max_running": self.max_running, "key": self.key, "starts": self.starts,
            "per": interval_of(self.per), "weight": self.weight, "fair": self.fair,
            "learns": self.learns, "name": self.name, **more,
        }  # fmt: skip
        return {name: value for name, value in columns.items() if value is not None}

    def _require_max_running(self, name: str, value: object, why: str) -> None:
        if value is not None and self.max_running is None:
            raise BadLimit(
                f"{name} needs max_running, which {why}", "Pass it, such as max_running=100."
            )


def interval_of(per: Span | None) -> str | None:
    """Return a period as SQL reads it. Raises BadLimit."""
    if per is None:
        return None
    try:
        span = timedelta_of(per)
    except ValueError as error:
        raise BadLimit(f"per {error}, not {format_span(per)}") from None
    if not PER_MIN <= span <= PER_MAX:
        raise BadLimit(f"per must be 10 milliseconds to 30 days, not {format_span(per)}")
    return sql_interval(span)


def require_paths(kind: str, key: str | None, weight: str | None, types_at: TypesAt) -> None:
    """Raise BadLimit if args of the kind never have a value at a path of a limit."""
    for what, path in (("key", key), ("weight", weight)):
        if path is None:
            continue
        types = types_at(tuple(path.split(".")))
        if not types:
            raise BadLimit(
                f"{what} {path!r} of a limit of {kind!r} leads nowhere: by the annotations of "
                "its handler, no task has args with a value there",
                "Name an argument of the handler, or a field of one, such as customer.id.",
            )
        if what == "weight" and not types & _NUMBERS:
            raise BadLimit(
                f"weight {path!r} of a limit of {kind!r} is no number by the annotations of "
                "its handler",
                "Name an argument that is an int or a float.",
            )


def check_values(columns: Mapping[str, Any]) -> None:
    """Raise BadLimit for the first column of peers.limit whose value is wrong by itself."""
    for name in ("name", "kind", "queue"):
        text = columns.get(name)
        _require(
            text is None or (isinstance(text, str) and 1 <= len(text) <= NAME_MAX_LENGTH),
            name, f"have 1 to {NAME_MAX_LENGTH} characters", text,
        )  # fmt: skip
    for name, example in (("key", "account_id"), ("weight", "tokens")):
        path = columns.get(name)
        _require(
            path is None or (isinstance(path, str) and _PATH.fullmatch(path) is not None),
            name, f"be a path into args, such as {example!r} or 'customer.id'", path,
        )  # fmt: skip
    for name in ("max_running", "starts"):
        number = columns.get(name)
        _require(
            number is None or (type(number) is int and 1 <= number <= COUNT_MAX),
            name, f"be a whole number, 1 to {COUNT_MAX}", number,
        )  # fmt: skip
    for name in ("fair", "learns"):
        switch = columns.get(name, False)
        _require(type(switch) is bool, name, "be True or False", switch)


def _require(fits: bool, name: str, bound: str, value: object) -> None:
    if not fits:
        raise BadLimit(f"{name} of a limit must {bound}, not {value!r}")
