"""All callers wait together for an endpoint that is busy or away, and not in their slots."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from peers import Snooze
from peers.predict.models import Backoff, Busy, Unavailable, predict_with_backoff


class World:
    """A time that only sleeping moves, a cooldown that all callers share, and an endpoint."""

    def __init__(self) -> None:
        self.now = 100.0
        self.until = 0.0
        self.sent: list[float] = []
        self.troubles: list[Exception] = []
        self.backoff = Backoff(lambda: self.now)

    async def sleep(self, seconds: float) -> None:
        """It passes."""
        self.now += seconds

    async def cooldown_left(self) -> float:
        """For how long nobody may call."""
        return max(0.0, self.until - self.now)

    async def start_cooldown(self, seconds: float, reason: str) -> None:
        """Nobody may call for so long."""
        assert reason
        self.until = max(self.until, self.now + seconds)

    async def call(self) -> Any:
        """The endpoint, which takes a second."""
        self.sent.append(self.now)
        self.now += 1.0
        if self.troubles:
            raise self.troubles.pop(0)
        return [2.0]

    def attempt(self, cooldown_left: Callable[[], Any] | None = None) -> Any:
        """A caller: predictions, or for how long it wants to be snoozed."""
        waiting = predict_with_backoff(
            self.call,
            cooldown_left or self.cooldown_left,
            self.start_cooldown,
            self.backoff,
            self.sleep,
        )
        try:
            return asyncio.run(waiting)
        except Snooze as snooze:
            return snooze.in_


def test_a_moment_is_waited_for_and_more_is_not() -> None:
    """For a tenth of a second a slot is kept; a minute is for others."""
    world = World()
    world.troubles = [Busy("u", 0.1)]
    assert world.attempt() == [2.0]
    world.troubles = [Busy("u", 60.0)]
    assert 60.0 <= world.attempt() <= 66.0


def test_moments_do_not_add_up_to_a_slot_that_is_kept() -> None:
    """An endpoint that says "in a moment" for ever keeps it for about a second."""
    world = World()
    world.troubles = [Busy("u", 0.1) for _ in range(1000)]
    assert world.attempt() < 1
    assert len(world.sent) <= 12


def test_all_callers_stay_away_for_as_long_as_one_was_told() -> None:
    """And a caller who does not ask first is caught by the same test."""

    def too_early(world: World, cooldown_left: Callable[[], Any] | None) -> bool:
        world.troubles = [Busy("u", 60.0)]
        world.attempt()
        world.attempt(cooldown_left)
        return len(world.sent) > 1

    async def deaf() -> float:
        return 0.0

    assert not too_early(World(), None)
    assert too_early(World(), deaf)


def test_pauses_get_longer_while_it_is_away_and_begin_again_when_it_is_back() -> None:
    """1, 2, 4 … 30 s, over as many attempts as it takes; none is used up."""
    world = World()
    world.troubles = [Unavailable("gone") for _ in range(8)]
    pauses = []
    while (found := world.attempt()) != [2.0]:
        pauses.append(found)
        world.now += found
    expected = [1, 2, 4, 8, 16, 30, 30, 30]
    assert len(pauses) == len(expected)
    assert all(
        least <= pause <= least * 1.11 for least, pause in zip(expected, pauses, strict=True)
    )
    world.troubles = [Unavailable("gone")]
    assert world.attempt() <= 1.1


def test_callers_who_miss_it_together_count_once() -> None:
    """Eight requests at once to an endpoint that is away do not make the pause 30 s."""
    backoff = Backoff(lambda: 7.0)
    assert [backoff.pause(5.0) for _ in range(8)] == [1.0] * 8
    assert backoff.pause(8.0) == 2.0
    backoff.reset()
    assert backoff.pause(9.0) == 1.0


def test_what_else_is_raised_is_for_the_caller() -> None:
    """Nobody waits for it."""
    world = World()
    world.troubles = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        world.attempt()
    assert world.until == 0.0
