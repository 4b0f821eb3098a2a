"""Wait together for an endpoint that is busy: who is told so tells all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from peers.predict.models.base import Model, Predictions
from peers.predict.models.http import Busy

if TYPE_CHECKING:
    import pyarrow as pa

_JITTER: Final = 0.1
_LONGEST_NAP: Final = 5.0
"""Then we ask again: the hold-off may have been lifted or extended."""


async def predict_patiently(
    model: Model,
    table: pa.Table,
    held_off: Callable[[], Awaitable[float]],
    hold_off: Callable[[float, str], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Predictions:
    """Predict as soon as the endpoint takes requests.

    `held_off` answers how many seconds all callers have to stay away, 0 if they need not;
    `hold_off(seconds, reason)` tells the others. Never gives up by itself.
    """
    while True:
        while (seconds := await held_off()) > 0:
            # jitter: those who wait together need not come back at the same instant
            await sleep(min(seconds, _LONGEST_NAP) * (1 + random.uniform(0, _JITTER)))
        try:
            return await model.predict_async(table)
        except Busy as busy:
            await hold_off(busy.seconds, str(busy))
