"""A schedule as code declares it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias, get_args

from peers.errors import BadSchedule
from peers.spans import Span, format_span, sql_interval, timedelta_of

Misfire: TypeAlias = Literal["skip", "latest", "all"]
Overlap: TypeAlias = Literal["allow", "skip", "buffer_one", "cancel_other"]

NAME_MAX: Final = 200
_DAY: Final = timedelta(days=1)
_YEAR: Final = timedelta(days=365)
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a kind runs by itself, and with which args.

    cron: five fields as in a crontab, or a name such as "@daily", by the clocks of timezone. every:
    a duration instead, 1 second to 365 days. anchor: the first due time of every, with a time zone;
    if left out, it counts from when the schedule is added. name: the kind, if left out. args: of
    its tasks. Their queue, priority, max_attempts and timeout are those of the handler: pass these
    to `@task`.

    misfire: what happens to due times that no peer has fired within 10 seconds: "skip" them, run
    the "latest" one, or "all" of them. A time older than catch_up (0 to 365 days) never runs.
    overlap: what happens while an earlier run is unfinished: "allow" both, "skip" the new one,
    "buffer_one" starts the new one when the earlier ones have ended, "cancel_other" cancels them.
    jitter: each task starts up to so much later, at most a day. expect_within: raise an alert if no
    run has completed so long after a due time.

    Raises BadSchedule for a value out of bounds.
    """

    cron: str | None = None
    every: Span | None = None
    anchor: datetime | None = None
    timezone: str = "UTC"
    name: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    misfire: Misfire = "latest"
    catch_up: Span = _DAY
    overlap: Overlap = "allow"
    jitter: Span = timedelta(0)
    expect_within: Span | None = None

    def __post_init__(self) -> None:
        from peers.schedules.calendar import Calendar  # it is slow to import

        for name in ("cron", "timezone", "name"):
            _require_text(name, getattr(self, name), may_be_none=name != "timezone")
        if not isinstance(self.args, Mapping):
            raise BadSchedule(f"args must be a JSON object, such as a dict, not {self.args!r}")
        for name in ("every", "catch_up", "jitter", "expect_within"):
            _require_duration(
                name, getattr(self, name), may_be_none=name in ("every", "expect_within")
            )
        Calendar(self.cron, None if self.every is None else timedelta_of(self.every), self.timezone)
        if self.anchor is not None and self.every is None:
            raise BadSchedule("anchor belongs to every; cron has none")
        moment_text("anchor", self.anchor)
        if self.name is not None and not 1 <= len(self.name) <= NAME_MAX:
            raise BadSchedule(f"name must have 1 to {NAME_MAX} characters, not {len(self.name)}")
        _require_one_of("misfire", self.misfire, get_args(Misfire))
        _require_one_of("overlap", self.overlap, get_args(Overlap))
        _require_between("catch_up", self.catch_up, timedelta(0), _YEAR, "0 to 365 days")
        _require_between("jitter", self.jitter, timedelta(0), _DAY, "0 to 1 day")
        if self.expect_within is not None:
            _require_between(
                "expect_within", self.expect_within, _SECOND, _YEAR, "1 second to 365 days"
            )

    def document(self, **others: object) -> dict[str, Any]:
        """Return the columns of peers.schedule that it sets, as JSON, with these other ones."""
        columns = {
            "cron": self.cron, "every": sql_interval(self.every),
            "anchor": moment_text("anchor", self.anchor), "timezone": self.timezone,
            "misfire": self.misfire, "catch_up": sql_interval(self.catch_up),
            "overlap": self.overlap, "jitter": sql_interval(self.jitter),
            "expect_within": sql_interval(self.expect_within),
            **others,
        }  # fmt: skip
        return {name: value for name, value in columns.items() if value is not None}


def moment_text(name: str, moment: datetime | None) -> str | None:
    """Return a time as SQL reads it; None for None. Raises BadSchedule if it has no time zone."""
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise BadSchedule(
            f"{name} must be a datetime with a time zone, not {moment!r}",
            "For example, datetime(2026, 11, 20, tzinfo=timezone.utc).",
        )
    if moment.tzinfo is None:
        raise BadSchedule(
            f"{name} {moment} has no time zone",
            "Give it one, such as datetime.now(timezone.utc).",
        )
    return moment.isoformat()


def _require_text(name: str, text: object, *, may_be_none: bool) -> None:
    if not isinstance(text, str) and not (text is None and may_be_none):
        raise BadSchedule(f"{name} must be a string, not {text!r}")


def _require_duration(name: str, span: Span | None, *, may_be_none: bool) -> None:
    try:
        if span is not None or not may_be_none:
            timedelta_of(span)
    except ValueError as error:
        raise BadSchedule(f"{name} {error}, not {format_span(span)}") from None


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise BadSchedule(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def _require_between(name: str, span: Span, least: timedelta, most: timedelta, bound: str) -> None:
    if not least <= timedelta_of(span) <= most:
        raise BadSchedule(f"{name} must be {bound}, not {format_span(span)}")
