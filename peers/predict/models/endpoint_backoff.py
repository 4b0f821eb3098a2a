"""Back off from an endpoint that is busy or unavailable; all peers share the cooldown."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from peers import Snooze
from peers.predict.models.transport import Busy, Unavailable

if TYPE_CHECKING:
    from peers.predict.models.base import Predictions

_JITTER: Final = 0.1
_LONGEST_IN_SLOT: Final = 1.0
"""Seconds that an attempt waits in its slot. After that it snoozes and frees the slot."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0


class Backoff:
    """Exponential backoff by how often in a row an endpoint was unavailable to this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._count = 0
        self._noted_at = float("-inf")

    def pause(self, asked_at: float) -> float:
        """Return how long to back off after a failed call that began at this time.

        Calls that were made together count once.
        """
        if asked_at > self._noted_at or self._count == 0:
            self._count += 1
            self._noted_at = self.clock()
        return float(min(_FIRST_PAUSE * 2.0 ** (self._count - 1), _LONGEST_PAUSE))

    def reset(self) -> None:
        """Start again from the first pause: the endpoint has responded."""
        self._count = 0


async def predict_with_backoff(
    call: Callable[[], Awaitable[Predictions]],
    cooldown_left: Callable[[], Awaitable[float]],
    start_cooldown: Callable[[float, str], Awaitable[None]],
    backoff: Backoff,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Predictions:
    """Make the call as soon as the endpoint accepts requests.

    `cooldown_left` returns the rest of the shared cooldown in seconds, 0 without one.
    `start_cooldown(seconds, reason)` starts one for all callers. Raises peers.Snooze for a longer
    wait: that frees the slot, and uses up no attempt.
    """
    waited, reason = 0.0, "the endpoint is in a cooldown"
    while True:
        while (seconds := await cooldown_left()) > 0:
            # jitter: callers that wait together do not return at the same instant
            pause = seconds * (1 + random.uniform(0, _JITTER))
            if waited + pause > _LONGEST_IN_SLOT:
                raise Snooze(in_=pause, message=reason)
            waited += pause
            await sleep(pause)
        asked_at = backoff.clock()
        try:
            found = await call()
        except Busy as busy:
            reason = str(busy)
            await start_cooldown(busy.seconds, reason)
        except Unavailable as away:
            reason = str(away)
            await start_cooldown(backoff.pause(asked_at), reason)
        else:
            backoff.reset()
            return found
