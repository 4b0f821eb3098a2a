"""SQL refuses the cron expressions and time zones that `peers.schedules` refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zoneinfo import available_timezones

import pytest
from hypothesis import HealthCheck, given, settings

from peers.errors import BadSchedule
from peers.schedules.calendar import Calendar
from tests.support.cron_texts import texts
from tests.support.world import column, value

if TYPE_CHECKING:
    from tests.support.server import Connection

ONE_DATABASE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def problem(cron: str = "@daily", timezone: str = "UTC") -> str | None:
    """What Python says about a schedule."""
    try:
        Calendar(cron, None, timezone)
    except BadSchedule as error:
        return error.message
    return None


@given(text=texts())
@settings(max_examples=400, suppress_health_check=ONE_DATABASE)
def test_python_and_sql_agree_about_cron_expressions(db: Connection, text: str) -> None:
    """They refuse the same expressions, with the same message."""
    assert value(db, "select peers._cron_problem(%s)", text) == problem(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("60 * * * *", 'minute must be 0 to 59, not "60"; examples: 0 or 5,35 or 10-20 or */15'),
        ("* 24 * * *", 'hour must be 0 to 23, not "24"; examples: 2 or 9-17 or 22-4 or */6'),
        (
            "* * 0 * *",
            'day of month must be 1 to 31 or L, not "0"; examples: 1 or 1,15 or L or */2',
        ),
        ("* * * 13 *", 'month must be 1 to 12 or JAN to DEC, not "13"; examples: 1 or JAN,JUL'),
        ("* * * * 8", 'weekday must be 0 to 7 or SUN to SAT (0 and 7 are Sunday), not "8"'),
        ("* * * * FRY", 'weekday must be 0 to 7 or SUN to SAT (0 and 7 are Sunday), not "FRY"'),
        ("* * * * mon#6", 'weekday must be 0 to 7 or SUN to SAT (0 and 7 are Sunday), not "MON#6"'),
        ("* * ? * *", 'day of month must be 1 to 31 or L, not "?"; examples: 1 or 1,15 or L'),
        ("* * 1W * *", 'day of month must be 1 to 31 or L, not "1W"; examples: 1 or 1,15 or L'),
        ("1,, * * * *", 'minute must be 0 to 59, not ""; examples: 0 or 5,35 or 10-20 or */15'),
        ("5-x * * * *", 'minute must be 0 to 59, not "5-X"; examples: 0 or 5,35'),
        ("-5 * * * *", 'minute must be 0 to 59, not "-5"; examples: 0 or 5,35'),
        ("*/0 * * * *", 'the step of minute must be 1 to 59, not "*/0"; examples: 0 or 5,35'),
        ("*/90 * * * *", "steps start again at 0: for other periods use every"),
        (
            "0 0 30 2 *",
            'no date has day of month "30", month "2" and weekday "*"; example: 0 2 L 2',
        ),
        ("0 0 31 4,6,9,11 *", 'no date has day of month "31", month "4,6,9,11" and weekday "*"'),
        ("0 0 */31 * MON#2", 'no date has day of month "*/31", month "*" and weekday "MON#2"'),
        (
            "0 0 0 2 * *",
            "five fields (minute, hour, day of month, month, weekday), not 6; example:",
        ),
        (
            "* * * *",
            "five fields (minute, hour, day of month, month, weekday), not 4; example: 0 2",
        ),
        ("", "cron must have five fields (minute, hour, day of month, month, weekday), not 0;"),
        (
            "@reboot",
            'cron must not be "@REBOOT"; use @hourly, @daily, @weekly, @monthly or @yearly',
        ),
        ("0 0 * * \u017fun", "cron must have printable ASCII characters only; example: 0 2 * * *"),
        ("0 0 * *\n*", "cron must have printable ASCII characters only; example: 0 2 * * *"),
        ("0" * 201, "cron must have at most 200 characters, not 201; example: 0 2 * * *"),
    ],
)
def test_a_refusal_names_the_field_the_bound_and_an_example(
    db: Connection, text: str, said: str
) -> None:
    """In SQL and in Python."""
    refusal = value(db, "select peers._cron_problem(%s)", text)
    assert said in refusal
    assert refusal == problem(text)


@pytest.mark.parametrize(
    "text",
    [
        "0 2 * * *", "*/15 8-18 * * mon-fri", " 5,10\t0 1,L jan 0-7 ", "0 0 29 2 *", "0 0 31 2 MON",
        "22-4/2 22-4 25-5 NOV-FEB FRI-MON", "0 0 */31 * MON#1", "0 0 */28 2 5L", "@Midnight",
        "5/20 7/5 10/10 6/3 1/2", "00 007 1 1 6L", "0 0 L,1 * SUNL", "0 0 */31,25-8 * MON#2",
    ],
)  # fmt: skip
def test_what_people_write_is_accepted(db: Connection, text: str) -> None:
    """In SQL and in Python."""
    assert value(db, "select peers._cron_problem(%s)", text) is None
    assert problem(text) is None


def test_python_and_sql_agree_about_time_zones(db: Connection) -> None:
    """Of all names that either of them knows; the spelling counts."""
    names = available_timezones() | set(column(db, "select name from pg_timezone_names"))
    strange = {
        "", " ", "Nowhere", "Europe", "Europe/", "europe/berlin", "Europe/BERLIN", "EUROPE/BERLIN",
        "UTC+3", "UTC-3", "Etc/GMT+15", "Etc/GMT-15", "Etc/GMT+05", "Europe/Foo+3", "Foo-Bar+3",
        "+03:00", "3", "CEST", "PDT", "../etc/passwd", "posix/Europe/Berlin", "default", "local",
        "right/UTC", "Europe/Berlin ", "A" * 101, "Zürich", "INTERVAL '3' HOUR", "Etc/GMT+5\n",
    }  # fmt: skip
    for name in names | strange:
        assert value(db, "select peers._timezone_problem(%s)", name) == problem(timezone=name), name
    for name in strange:
        assert problem(timezone=name) is not None, name
    refused = {name for name in names if problem(timezone=name)}
    old = {"CST6CDT", "EST5EDT", "MST7MDT", "PST8PDT", "GMT+0", "GMT-0", "GMT0", "Etc/GMT0"}
    assert {name for name in refused if not name.startswith(("posix/", "right/"))} <= old | {
        "Factory", "localtime", "posixrules",
    }  # fmt: skip


def test_a_zone_check_leaves_the_session_as_it_was(db: Connection) -> None:
    """It sets the time zone for a moment only."""
    db.execute("set timezone = 'Asia/Tokyo'")
    assert value(db, "select peers._timezone_problem('Europe/Berlin')") is None
    assert value(db, "select peers._timezone_problem('Nowhere')") is not None
    assert value(db, "show timezone") == "Asia/Tokyo"
