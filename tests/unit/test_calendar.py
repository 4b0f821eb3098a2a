"""When a schedule is due, where clocks change and where they do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

import pytest
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.errors import BadSchedule
from peers.schedules.calendar import Calendar
from peers.schedules.zone import Zone
from tests.support.vixie import cronsim_runs, runs

BERLIN: Final = "Europe/Berlin"
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
NEVER: Final = timedelta(days=400)


def local_times(calendar: Calendar, zone: str, after: str, until: str) -> list[str]:
    """The due times between two local times, as the zone's clocks show them, with the offset."""
    info = ZoneInfo(zone)
    start, end = (datetime.fromisoformat(text).replace(tzinfo=info) for text in (after, until))
    return [f"{due.astimezone(info):%d %H:%M %z}" for due in calendar.between(start, end, 10_000)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the clocks go from 02:00 to 03:00 on 29 March 2026
        ("30 2 * * *", ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]),
        ("0,20,40 2 29 * *", ["29 03:00 +0200"]),
        ("0-59 2 29 * *", ["29 03:00 +0200"]),
        ("30 1-3 29 * *", ["29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200"]),
        ("0 2,3 29 * *", ["29 03:00 +0200"]),
        ("*/30 2 29 * *", []),
        ("30 * 29 3 *", ["29 00:30 +0100", "29 01:30 +0100"]
         + [f"29 {hour:02}:30 +0200" for hour in range(3, 24)]),
    ],
)  # fmt: skip
def test_a_fixed_time_that_the_clocks_skip_is_due_once_after_the_gap(
    text: str, expected: list[str]
) -> None:
    """With a star in minute or hour, what the clocks do not show is not due."""
    calendar = Calendar(text, timezone=BERLIN)
    assert local_times(calendar, BERLIN, "2026-03-28", "2026-03-30 12:00") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the clocks go from 03:00 to 02:00 on 25 October 2026
        ("30 2 * * *", ["24 02:30 +0200", "25 02:30 +0200", "26 02:30 +0100"]),
        ("0 2,3 25 * *", ["25 02:00 +0200", "25 03:00 +0100"]),
        ("*/30 2 25 * *",
         ["25 02:00 +0200", "25 02:30 +0200", "25 02:00 +0100", "25 02:30 +0100"]),
        ("59 * 25 10 *",
         ["25 00:59 +0200", "25 01:59 +0200", "25 02:59 +0200"]
         + [f"25 {hour:02}:59 +0100" for hour in range(2, 24)]),
    ],
)  # fmt: skip
def test_a_fixed_time_that_comes_twice_is_due_once(text: str, expected: list[str]) -> None:
    """With a star in minute or hour, it is due both times."""
    calendar = Calendar(text, timezone=BERLIN)
    assert local_times(calendar, BERLIN, "2026-10-24", "2026-10-26 12:00") == expected


def test_while_an_hour_comes_again_what_was_due_in_it_is_past() -> None:
    """From 02:10 on 25 October, the second time, the next 02:30 is that of the next day."""
    moment = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    due = Calendar("30 2 * * *", timezone=BERLIN).next_after(moment)
    assert due == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    repeated = Calendar("*/30 2 * * *", timezone=BERLIN).next_after(moment)
    assert repeated == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_apscheduler_alone_would_run_an_hour_twice() -> None:
    """The broken variant: its trigger in the real time zone."""
    zone = ZoneInfo(BERLIN)
    trigger = CronTrigger(hour="2", minute="30", timezone=zone)
    first = trigger.get_next_fire_time(None, datetime(2026, 10, 25, 0, tzinfo=zone))
    second = trigger.get_next_fire_time(None, first.astimezone(UTC) + MICROSECOND)
    assert (first.day, second.day) == (25, 25)


def test_half_an_hour_of_summer_time() -> None:
    """Lord Howe Island: at 02:00 on 4 October 2026 it is 02:30, on 5 April 01:30 again."""
    zone = "Australia/Lord_Howe"
    calendar = Calendar("15 2 * * *", timezone=zone)
    spring = local_times(calendar, zone, "2026-10-03 12:00", "2026-10-05 12:00")
    assert spring == ["04 02:30 +1100", "05 02:15 +1100"]
    calendar = Calendar("45 1 * * *", timezone=zone)
    autumn = local_times(calendar, zone, "2026-04-04 12:00", "2026-04-06 12:00")
    assert autumn == ["05 01:45 +1100", "06 01:45 +1030"]
    calendar = Calendar("*/15 1 5 4 *", timezone=zone)
    shown = local_times(calendar, zone, "2026-04-04 12:00", "2026-04-06 12:00")
    assert [time[3:8] for time in shown] == ["01:00", "01:15", "01:30", "01:45", "01:30", "01:45"]


def test_a_day_that_a_zone_skips() -> None:
    """Samoa had no 30 December 2011. A fixed time of that day is due when the 31st begins."""
    zone = "Pacific/Apia"
    daily = local_times(Calendar("0 9 * * *", timezone=zone), zone, "2011-12-28", "2012-01-01")
    assert [time[:8] for time in daily] == ["28 09:00", "29 09:00", "31 00:00", "31 09:00"]
    once = local_times(Calendar("0 9 30 12 *", timezone=zone), zone, "2011-12-28", "2012-01-02")
    assert [time[:8] for time in once] == ["31 00:00"]
    shown = local_times(Calendar("0 */12 * * *", timezone=zone), zone, "2011-12-29", "2012-01-01")
    assert [time[:8] for time in shown] == ["29 12:00", "31 00:00", "31 12:00", "01 00:00"]


def test_changes_that_follow_each_other_soon_are_found() -> None:
    """Recife had summer time for one week in October 2000, the shortest time since 1970."""
    assert [f"{change:%m-%d}" for change in changes("America/Recife", 2000, 2000)] == [
        "02-27", "10-08", "10-15",
    ]  # fmt: skip


ZONES: Final = [
    BERLIN, "America/New_York", "America/St_Johns", "America/Santiago", "America/Sao_Paulo",
    "Australia/Sydney", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham",
    "Africa/Casablanca", "Asia/Tehran", "Asia/Gaza", "Antarctica/Troll", "Antarctica/Casey",
    "America/Caracas", "Asia/Pyongyang", "Atlantic/Azores", "Europe/Dublin", "America/Nuuk",
    "Africa/Juba",
]  # fmt: skip
AROUND: Final = timedelta(hours=26)
TEXTS: Final = [
    "30 2 * * *", "*/5 * * * *", "*/30 2 * * *", "0 * * * *", "0,30 1-3 * * *", "15 0-23 * * *",
    "59 23 * * *", "0 0 * * *", "*/7 1,2 * * *", "30 * * * *", "0-59 2 * * *", "5 */2 * * *",
    "10 0 30,31 12 *", "1 3 L * MON", "45 0,1 * * SUN", "0 3 * * *",
]  # fmt: skip


def changes(zone: str, first: int, last: int) -> list[datetime]:
    """When the clocks of a zone change from the first year up to the last one."""
    found: list[datetime] = []
    after, end = datetime(first, 1, 1, tzinfo=UTC), datetime(last + 1, 1, 1, tzinfo=UTC)
    while (change := Zone(zone).next_change(after, end)) is not None:
        found.append(change)
        after = change
    return found


@given(data=st.data(), zone=st.sampled_from(ZONES), text=st.sampled_from(TEXTS))
def test_vixies_cron_agrees_around_every_change_of_the_clocks(
    data: st.DataObject, zone: str, text: str
) -> None:
    """Beside a daemon that looks at the clock every minute; from any moment on."""
    change = data.draw(st.sampled_from(changes(zone, 2005, 2035)))
    start, end = change - AROUND, change + AROUND
    expected = list(runs(text, ZoneInfo(zone), start, end))
    calendar = Calendar(text, timezone=zone)
    assert calendar.between(start, end, 10_000) == expected
    near = data.draw(st.sampled_from([timedelta(hours=2), AROUND]))
    moment = change + data.draw(st.timedeltas(-near, near))
    assert calendar.between(moment, end, 10_000) == [due for due in expected if due > moment]


@pytest.mark.parametrize("text", ["30 2 * * *", "5 */6 * * *", "0 0 L * MON", "15,45 1-3 * * SUN"])
@pytest.mark.parametrize("zone", [BERLIN, "America/Santiago", "Australia/Sydney"])
def test_cronsim_agrees_about_two_years(text: str, zone: str) -> None:
    """`make schedules` compares ten years of more schedules in more zones."""
    end = START + 2 * timedelta(days=365)
    expected = list(cronsim_runs(text, ZoneInfo(zone), START, end))
    assert Calendar(text, timezone=zone).between(START, end, 100_000) == expected


@given(
    every=st.timedeltas(timedelta(seconds=1), timedelta(days=365)),
    after=st.timedeltas(timedelta(0), timedelta(days=36_500)),
)
def test_every_counts_elapsed_time_from_its_anchor(every: timedelta, after: timedelta) -> None:
    """To the microsecond. The anchor is the first due time."""
    calendar = Calendar(every=every, timezone=BERLIN, anchor=START)
    assert calendar.next_after(START - NEVER) == START
    due = calendar.next_after(START + after)
    assert due is not None
    assert START + after < due <= START + after + every
    assert (due - START) % every == timedelta(0)


def test_apschedulers_interval_would_skip_due_times() -> None:
    """The broken variant: it counts in floating point, and takes a due time for past."""
    anchor, every = START + timedelta(microseconds=297_962), timedelta(seconds=1243)
    trigger = IntervalTrigger(seconds=1243, start_date=anchor, timezone=UTC)
    due = anchor + 616_122 * every
    assert trigger.get_next_fire_time(None, due) == due + every
    assert Calendar(every=every, anchor=anchor).next_after(due - MICROSECOND) == due


def test_an_hour_is_an_hour_where_clocks_change() -> None:
    """Also across the change: 24 hours after noon it is one hour later or earlier."""
    anchor = datetime(2026, 3, 28, 11, tzinfo=UTC)
    calendar = Calendar(every=timedelta(days=1), timezone=BERLIN, anchor=anchor)
    times = local_times(calendar, BERLIN, "2026-03-28", "2026-03-29 23:00")
    assert times == ["28 12:00 +0100", "29 13:00 +0200"]


def test_between_is_bounded() -> None:
    """The first moment does not count, the second one does; no more than asked for."""
    calendar = Calendar("* * * * *")
    minute = timedelta(minutes=1)
    assert calendar.between(START, START + 2 * minute, 10) == [START + minute, START + 2 * minute]
    assert calendar.between(START, START + NEVER, 3) == [START + n * minute for n in (1, 2, 3)]
    assert calendar.between(START, START, 10) == []
    assert calendar.between(START, START + NEVER, 0) == []


def test_far_moments() -> None:
    """Before 1970 and after the year 9000 nothing is due."""
    daily = Calendar("@daily", timezone="Pacific/Kiritimati")
    first = daily.next_after(datetime.min.replace(tzinfo=UTC))
    assert first is not None
    assert first.year == 1970
    assert daily.next_after(datetime(8999, 12, 31, 12, tzinfo=UTC)) is None
    assert daily.next_after(datetime.max.replace(tzinfo=UTC)) is None
    every = Calendar(every=timedelta(days=365))
    assert every.next_after(datetime(8999, 12, 31, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either cron, such as"),
        ({"cron": "@daily", "every": timedelta(hours=1)}, "either cron, such as"),
        ({"every": timedelta(0)}, "1 second to 365 days, such as 15 minutes, not 0s"),
        ({"every": timedelta(days=-1)}, "1 second to 365 days"),
        ({"every": NEVER}, "1 second to 365 days, such as 15 minutes, not 400d"),
        ({"cron": "@daily", "timezone": "Europe/Berlín"}, "such as Europe/Berlin or UTC, not"),
        ({"cron": "0 2 * *"}, "five fields"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(options: dict[str, object], said: str) -> None:
    """With its bound and an example."""
    with pytest.raises(BadSchedule, match=said):
        Calendar(**options)  # type: ignore[arg-type]


@settings(max_examples=20)
@given(zone=st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"})))
def test_a_schedule_moves_on_in_every_zone(zone: str) -> None:
    """Due times rise, and a daily schedule has one for each date up to the year 2060."""
    try:
        calendar = Calendar("30 2 * * *", timezone=zone)
    except BadSchedule:
        return  # an old name such as EST5EDT
    due = calendar.between(START, datetime(2028, 1, 1, tzinfo=UTC), 10_000)
    assert due == sorted(set(due))
    assert 729 <= len(due) <= 731
    late = calendar.next_after(datetime(2060, 7, 1, tzinfo=UTC))
    assert late is not None
    assert late - datetime(2060, 7, 1, tzinfo=UTC) <= timedelta(days=1)
