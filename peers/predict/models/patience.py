"""Wait together for an endpoint that is busy or away: who notices tells all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from peers import Retry
from peers.predict.models.http import Away, Busy

if TYPE_CHECKING:
    from peers.predict.models.base import Predictions

_JITTER: Final = 0.1
_LONGEST_NAP: Final = 5.0
"""Then we ask again: the hold-off may have been lifted or extended."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_MOST_MISSES: Final = 20
"""Eight minutes of pauses; then the attempt is over, and the task's own retries go on."""


async def predict_patiently(
    call: Callable[[], Awaitable[Predictions]],
    held_off: Callable[[], Awaitable[float]],
    hold_off: Callable[[float, str], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Predictions:
    """Make the call as soon as the endpoint takes requests.

    `held_off` answers how many seconds all callers have to stay away, 0 if they need not;
    `hold_off(seconds, reason)` tells the others. Waits for one that is busy for as long as it asks
    for; raises peers.Retry when it has been away for long.
    """
    misses = 0
    while True:
        while (seconds := await held_off()) > 0:
            # jitter: those who wait together need not come back at the same instant
            await sleep(min(seconds, _LONGEST_NAP) * (1 + random.uniform(0, _JITTER)))
        try:
            return await call()
        except Busy as busy:
            await hold_off(busy.seconds, str(busy))
        except Away as away:
            misses += 1
            if misses > _MOST_MISSES:
                raise Retry(message=str(away)) from away
            await hold_off(min(_FIRST_PAUSE * 2 ** (misses - 1), _LONGEST_PAUSE), str(away))
