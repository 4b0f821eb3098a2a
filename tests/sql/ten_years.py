"""Ten simulated years of schedules in many zones, with peers that die.

    python -m tests.sql.ten_years [--years 10] [--seed N]

First it compares the due times that `peers.schedules` computes with those of cronsim, and around
each change of the clocks with those of a daemon that looks at the clock every minute. Then
simulated peers fire schedules against the real SQL. It prints the counts. Exit 1 if a due time is
missing, fired twice, or was not due.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import chain, product
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from peers.schedules.calendar import Calendar
from peers.schedules.zone import Zone
from tests.sql.schedule_simulation import Fleet, Simulated, account
from tests.support.schedules import set_clock
from tests.support.server import Databases, any_server, open_connection
from tests.support.vixie import runs

if TYPE_CHECKING:
    from tests.support.server import Connection

START: Final = datetime(2009, 6, 1, tzinfo=UTC)
"""So that the ten years have the day that Samoa skipped."""
ZONES: Final = (
    "UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/St_Johns",
    "America/Santiago", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Gaza", "Asia/Tehran",
    "Asia/Kolkata", "Australia/Sydney", "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Apia",
    "Antarctica/Casey",
)  # fmt: skip
DAILY_ZONES: Final = ("Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Pacific/Apia")
DAILY: Final = ("30 2 * * *", "0 0 * * *", "45 1 * * SUN", "15 1-3 * * 6,0", "0 9 13 * FRI")
RARE: Final = ("0 3 1 * *", "0 0 L * *", "0 0 29 2 *", "59 23 31 12 *", "@weekly", "0 5 * * MON#1")
SHOWN: Final = ("15 */4 * * *", "*/30 2 * * *", "*/10 1-2 1 * SUN", "0 * 1,15 * *")
SHOWN_ZONES: Final = (
    "UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "Asia/Kolkata", "Australia/Sydney",
    "Antarctica/Casey",
)  # fmt: skip
"""With a star in minute or hour, cronsim loses due times in the other zones, or never returns:
where clocks change at midnight, or by a part of an hour, or at a minute that is not 0."""
AROUND: Final = timedelta(hours=26)


def main() -> int:
    """Run both parts, and return the exit code."""
    parser = argparse.ArgumentParser(description="ten simulated years of schedules")
    parser.add_argument("--years", type=float, default=10.0, help="how long (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of what befalls the peers")
    options = parser.parse_args()
    end = START + options.years * timedelta(days=365.25)
    wrong = compare_calendars(end)
    with ExitStack() as stack:
        databases = Databases(stack.enter_context(any_server())[0])
        stack.callback(databases.close)
        databases.make_template()
        url = stack.enter_context(databases.clone())

        def connect() -> Connection:
            return stack.enter_context(open_connection(url))

        wrong += simulate_fleet(connect(), Fleet(connect, START, options.seed), end)
    return 1 if wrong else 0


def compare_calendars(end: datetime) -> int:
    """Compare due times with the oracles; print and return how many differ."""
    started = time.monotonic()
    compared, wrong = 0, 0
    for zone, text in chain(product(ZONES, DAILY + RARE), product(SHOWN_ZONES, SHOWN)):
        simulated = Simulated(text, zone)
        expected = list(simulated.due_times(START, end))
        due = Calendar(text, timezone=zone).between(START, end, 10_000_000)
        compared += len(due)
        wrong += difference(f"{text} {zone}", expected, due)
    print(f"cronsim: {compared:,} due times compared, {wrong} differ,"
          f" {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    return wrong + compare_changes(end)


def compare_changes(end: datetime) -> int:
    """Compare due times around each change of the clocks; print and return how many differ."""
    started = time.monotonic()
    compared, wrong, changes = 0, 0, 0
    for zone in ZONES:
        change = Zone(zone).next_change(START, end)
        while change is not None:
            changes += 1
            first, last = change - AROUND, change + AROUND
            for text in DAILY[:4] + SHOWN:
                expected = list(runs(text, ZoneInfo(zone), first, last))
                due = Calendar(text, timezone=zone).between(first, last, 10_000)
                compared += len(due)
                wrong += difference(f"{text} {zone}", expected, due)
            change = Zone(zone).next_change(change, end)
    print(f"clock changes: {changes:,}; {compared:,} due times compared, {wrong} differ,"
          f" {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    return wrong


def difference(name: str, expected: list[datetime], due: list[datetime]) -> int:
    """Print and return how many due times only one of both lists has."""
    missing, extra = set(expected) - set(due), set(due) - set(expected)
    if missing or extra:
        print(f"  {name}: missing {sorted(missing)[:3]}, extra {sorted(extra)[:3]}")
    return len(missing) + len(extra) + (len(due) - len(set(due)))


def schedules_of_fleet() -> list[Simulated]:
    """Return the schedules that the simulated peers fire."""
    return [
        *(Simulated("30 2 * * *", zone) for zone in DAILY_ZONES),
        *(Simulated(text, zone) for zone, text in product(ZONES, ("30 2 * * SUN", *RARE))),
        *(Simulated("*/20 2 15 3,10 *", zone) for zone in SHOWN_ZONES),
        *(Simulated("0 12 * * *", "Europe/Berlin", misfire) for misfire in ("skip", "latest")),
        Simulated("", every=timedelta(hours=25, minutes=7), zone="Australia/Sydney"),
        Simulated("", every=timedelta(days=3, hours=9), misfire="latest"),
    ]


def simulate_fleet(db: Connection, fleet: Fleet, end: datetime) -> int:
    """Let simulated peers fire the schedules; print the counts, and return how many are wrong."""
    started = time.monotonic()
    set_clock(db, START.isoformat())
    schedules = schedules_of_fleet()
    for schedule in schedules:
        schedule.add(db, START)
    fleet.run(end)
    total: Counter[str] = Counter()
    for each in (account(db, schedule, START, end) for schedule in schedules):
        counts = {
            "due": each.due, "fired": each.fired, "skipped": each.skipped,
            "missing": len(each.missing), "twice": len(each.twice), "extra": len(each.extra),
        }  # fmt: skip
        total.update(counts)
        print(f"  {each.schedule:45}", *(f"{name} {count:,}" for name, count in counts.items()))
    print("peers:", *(f"{count:,} {fate};" for fate, count in fleet.fates.most_common()))
    print(f"{len(schedules)} schedules, {(end - START).days:,} days:",
          *(f"{name} {count:,};" for name, count in total.items()),
          f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    return total["missing"] + total["twice"] + total["extra"]


if __name__ == "__main__":
    sys.exit(main())
