"""How durations are estimated, and claims are sized by them."""

from __future__ import annotations

import pytest

from peers.pool.durations import CLAIM_SECONDS, HELD_MAX_TASKS, DurationEstimate, claim_size


def test_a_kind_that_never_ran_counts_as_slow() -> None:
    """So the first claim brings one of its tasks for each slot."""
    assert claim_size(4, DurationEstimate().seconds("new")) == 4


def test_the_estimate_rises_fast_and_falls_slowly() -> None:
    """One slow call moves it by half the way, one quick call by a tenth."""
    durations = DurationEstimate()
    durations.note("a", 0.010)
    assert durations.seconds("a") == 0.010
    durations.note("a", 0.110)
    assert durations.seconds("a") == pytest.approx(0.060)
    durations.note("a", 0.010)
    assert durations.seconds("a") == pytest.approx(0.055)


def test_each_kind_has_its_own_estimate() -> None:
    """A slow kind does not make a quick one slow."""
    durations = DurationEstimate()
    durations.note("slow", 10.0)
    durations.note("quick", 0.0)
    assert (durations.seconds("slow"), durations.seconds("quick")) == (10.0, 0.0)


@pytest.mark.parametrize("slots", [1, 8, 5000])
@pytest.mark.parametrize("seconds", [0.0, 1e-6, 0.001, CLAIM_SECONDS, 3600.0])
def test_a_claim_fills_the_slots_and_no_more_than_is_soon_finished(
    slots: int, seconds: float
) -> None:
    """One a slot at least, however many slots there are; beyond that no more than what the slots
    finish in CLAIM_SECONDS, and no more than the most that one statement may claim.
    """
    size = claim_size(slots, seconds)
    assert slots <= size <= max(slots, HELD_MAX_TASKS)
    if size > slots:
        assert size * seconds <= slots * CLAIM_SECONDS + seconds
