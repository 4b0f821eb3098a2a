"""What the fields of a cron expression mean."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from itertools import islice, product

import pytest
from apscheduler.triggers.cron import CronTrigger
from cronsim import CronSim, CronSimError
from hypothesis import assume, example, given

from peers.errors import BadSchedule
from peers.schedules.calendar import Calendar
from peers.schedules.cron import Cron, parse_cron
from peers.schedules.fields import DAY, HOUR, LAST, MINUTE, MONTH, WEEKDAY
from tests.support.cron_texts import expressions

FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)  # a Friday


def times(text: str, count: int, after: datetime = NOON) -> list[str]:
    """The next due times, without the year where it is the same."""
    return [f"{due:%Y-%m-%d %H:%M}" for due in Calendar(text).next_times(after, count)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 2 * * *", ["2026-11-28 02:00", "2026-11-29 02:00"]),
        ("5,35 13 * * *", ["2026-11-27 13:05", "2026-11-27 13:35"]),
        ("*/20 13 * * *", ["2026-11-27 13:00", "2026-11-27 13:20", "2026-11-27 13:40"]),
        ("10-50/20 13 * * *", ["2026-11-27 13:10", "2026-11-27 13:30", "2026-11-27 13:50"]),
        ("40/10 13 * * *", ["2026-11-27 13:40", "2026-11-27 13:50", "2026-11-28 13:40"]),
        ("0 22-1 * * *", ["2026-11-27 22:00", "2026-11-27 23:00", "2026-11-28 00:00",
                          "2026-11-28 01:00", "2026-11-28 22:00"]),
        ("0 0 30-2 * *", ["2026-11-30 00:00", "2026-12-01 00:00", "2026-12-02 00:00"]),
        ("0 0 1 NOV-JAN *", ["2026-12-01 00:00", "2027-01-01 00:00", "2027-11-01 00:00"]),
        ("0 0 * * FRI-SUN", ["2026-11-28 00:00", "2026-11-29 00:00", "2026-12-04 00:00"]),
        ("0 0 * * 0", ["2026-11-29 00:00", "2026-12-06 00:00"]),
        ("0 0 * * 7", ["2026-11-29 00:00", "2026-12-06 00:00"]),
        ("0 0 * * 1", ["2026-11-30 00:00", "2026-12-07 00:00"]),
        ("0 0 * * mon,5-7", ["2026-11-28 00:00", "2026-11-29 00:00", "2026-11-30 00:00",
                             "2026-12-04 00:00"]),
        ("0 0 1,L * *", ["2026-11-30 00:00", "2026-12-01 00:00", "2026-12-31 00:00"]),
        ("0 0 L 2 *", ["2027-02-28 00:00", "2028-02-29 00:00"]),
        ("0 0 13 * FRI", ["2026-12-04 00:00", "2026-12-11 00:00", "2026-12-13 00:00"]),
        ("0 0 31 2 MON", ["2027-02-01 00:00", "2027-02-08 00:00"]),
        ("0 0 */15 * MON", ["2027-02-01 00:00", "2027-03-01 00:00", "2027-05-31 00:00"]),
        ("0 0 13 * */5", ["2026-12-13 00:00", "2027-06-13 00:00"]),
        ("0 0 * * MON#1", ["2026-12-07 00:00", "2027-01-04 00:00"]),
        ("0 0 * * 5L,sun#5", ["2026-11-29 00:00", "2026-12-25 00:00", "2027-01-29 00:00"]),
        ("0 0 15 * 5L", ["2026-12-15 00:00", "2026-12-25 00:00", "2027-01-15 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 */28 2 5L", ["2036-02-29 00:00", "2064-02-29 00:00", "2092-02-29 00:00",
                           "2104-02-29 00:00"]),
        ("@hourly", ["2026-11-27 13:00", "2026-11-27 14:00"]),
        ("@daily", ["2026-11-28 00:00", "2026-11-29 00:00"]),
        ("@midnight", ["2026-11-28 00:00", "2026-11-29 00:00"]),
        ("@Weekly", ["2026-11-29 00:00", "2026-12-06 00:00"]),
        ("@monthly", ["2026-12-01 00:00", "2027-01-01 00:00"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("@annually", ["2027-01-01 00:00", "2028-01-01 00:00"]),
    ],
)  # fmt: skip
def test_the_fields_mean_what_people_expect(text: str, expected: list[str]) -> None:
    """Names, ranges that may wrap around, steps, lists, L, nicknames, and Sunday as 0 and 7."""
    assert times(text, len(expected)) == expected


def test_apscheduler_alone_would_be_wrong() -> None:
    """The broken variant: Tuesdays for Mondays, AND for OR, no Sunday as 7."""
    monday = CronTrigger.from_crontab("0 0 * * 1", UTC).get_next_fire_time(None, NOON)
    assert monday.isoweekday() == 2
    both = CronTrigger.from_crontab("0 0 13 * fri", UTC).get_next_fire_time(None, NOON)
    assert (both.day, both.isoweekday()) == (13, 5)
    with pytest.raises(ValueError, match="higher than the maximum"):
        CronTrigger.from_crontab("0 0 * * 7", UTC)


def has_step_in_one_value(text: str) -> bool:
    """Whether there is a range such as 3-3/2. It has one value; cronsim reads it as 3/2."""
    return any(
        field.number(start) == field.number(end)
        for field, items in zip(FIELDS, text.upper().split(), strict=True)
        for start, end in re.findall(r"(\w+)-(\w+)/", items)
    )


@example(text="* * */14 * 0#2")  # a second Sunday is never the 1st, 15th or 29th
@given(text=expressions())
def test_cronsim_agrees_about_any_expression(text: str) -> None:
    """The next ten due times in UTC are the same, if it can read the expression.

    It finds none for the few that it accepts although no date matches; we refuse these.
    """
    assume(not has_step_in_one_value(text))
    try:
        simulated = list(islice(CronSim(text, NOON), 10))
    except CronSimError:
        return  # it knows no range that wraps around; and see the next test
    if simulated:
        assert Calendar(text).next_times(NOON, 10) == simulated
    else:
        assert is_refused(text)


def every_kind_of_date() -> set[tuple[int, int, int, int]]:
    """Month, day, length of the month and weekday of every date of 400 years."""
    first = date(2000, 1, 1)
    dates = (first + timedelta(days=days) for days in range(146_097))
    return {
        (each.month, each.day, monthrange(each.year, each.month)[1], each.isoweekday() % 7)
        for each in dates
    }


def matches(cron: Cron, month: int, day: int, length: int, weekday: int) -> bool:
    """Whether a date matches both fields."""
    return (
        month in cron.months
        and (day in cron.days or (day == length and LAST in cron.days))
        and (
            weekday in cron.weekdays
            or (weekday, (day + 6) // 7) in cron.limited_weekdays
            or (day + 7 > length and (weekday, LAST) in cron.limited_weekdays)
        )
    )


def test_exactly_what_never_fires_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside all dates of 400 years. What is accepted fires within 50 years."""
    days = ["*", "*/2", "*/8", "*/15", "*/28", "*/29", "*/31", "*/31,L", "*/30,30", "31", "L"]
    months = ["*", "2", "4,6", "2,4", "FEB-APR", "11-2"]
    weekdays = ["*", "*/2", "*/2,5L", "*,5#5", "TUE#2", "4#4", "5#5", "5L", "0L,1#2"]
    texts = [
        f"0 0 {day} {month} {weekday}"
        for day, month, weekday in product(days, months, weekdays)
        if "*" in day or "*" in weekday
    ]
    refused = {text for text in texts if is_refused(text)}
    with monkeypatch.context() as patch:
        patch.setattr(Cron, "can_fire", lambda _: True)
        crons = {text: parse_cron(text) for text in texts}
    dates = every_kind_of_date()
    for text, cron in crons.items():
        assert any(matches(cron, *each) for each in dates) == (text not in refused), text
    assert len(refused) > 20
    for text in set(texts) - refused:
        due = Calendar(text).next_after(NOON)
        assert due is not None
        assert due.year < 2076


def is_refused(text: str) -> bool:
    """Whether an expression never fires."""
    try:
        parse_cron(text)
    except BadSchedule as error:
        return "no date has" in error.message
    return False


@pytest.mark.parametrize(
    "text",
    ["0 0 29 2 *", "* * 29 2 */7", "0 0 */28 2 0L,1L,2L,3L,4L,5L,6L", "0 0 30 2 MON",
     "0 0 31 2,4,6,9,11 5#5", "0 0 */31 2 MON,TUE#5,5L", "59 23 L 2 *"],
)  # fmt: skip
def test_rare_dates_are_found_in_few_steps(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not minute by minute, and not up to the year 9999."""
    steps = 0
    step = CronTrigger._increment_field_value

    def counted(*arguments: object) -> object:
        nonlocal steps
        steps += 1
        return step(*arguments)

    monkeypatch.setattr(CronTrigger, "_increment_field_value", counted)
    calendar = Calendar(text, timezone="Australia/Lord_Howe")
    for year in range(2026, 2066):
        calendar.next_after(datetime(year, 3, 1, tzinfo=UTC))
    assert steps < 40 * 500
