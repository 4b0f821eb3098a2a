"""A few simulated weeks of schedules with peers that die. `make schedules` simulates ten years."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from tests.sql.schedule_simulation import Account, Fleet, Simulated, account
from tests.support.schedules import set_clock
from tests.support.world import Patch, apply_patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection

START: Final = datetime(2011, 12, 20, tzinfo=UTC)  # Samoa skipped 30 December 2011
SCHEDULES: Final = [
    Simulated("30 2 * * *", "Pacific/Apia"),
    Simulated("0 3,15 * * *", "Europe/Berlin"),
    Simulated("*/20 2 * * SAT", "America/New_York"),
    Simulated("0 12 * * *", "America/Santiago", "skip"),
    Simulated("0 0 L,1 * *", "Australia/Sydney", "latest"),
    Simulated("", every=timedelta(hours=13), misfire="latest"),
]


def simulate(connect: Callable[[], Connection], days: int, seed: int) -> list[Account]:
    """Let peers fire the schedules for some days, and return what became of the due times."""
    db, end = connect(), START + timedelta(days=days)
    set_clock(db, START.isoformat())
    for schedule in SCHEDULES:
        schedule.add(db, START)
    Fleet(connect, START, seed).run(end)
    return [account(db, schedule, START, end) for schedule in SCHEDULES]


@pytest.mark.parametrize("seed", [1, 2])
def test_each_due_time_has_exactly_one_fate(connect: Callable[[], Connection], seed: int) -> None:
    """It fires once, or is skipped once if its policy says so."""
    accounts = simulate(connect, 25, seed)
    assert [each for each in accounts if not each.is_clean] == []
    assert all(each.due == each.fired + each.skipped > 0 for each in accounts)
    assert [each.skipped for each, schedule in zip(accounts, SCHEDULES, strict=True)
            if schedule.misfire == "all"] == [0, 0, 0]  # fmt: skip


def test_without_its_safeguard_a_due_time_fires_twice(connect: Callable[[], Connection]) -> None:
    """The broken variant: what a stopped peer has computed before still counts."""
    fire, compared = "65_fire_schedule.sql", "s.next_due_at is not distinct from _fire.next_due_at"
    recorded = "(r.outcome = 'fired' or r.outcome = 'skipped' and _cause = 'due')"
    patches = [Patch(fire, compared, "true"), Patch("65_submit_run.sql", recorded, "false")]
    apply_patches(connect(), patches)
    assert any(each.twice for each in simulate(connect, 40, 1))
