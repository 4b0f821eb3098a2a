"""How long handlers take, and what follows for the size of batches.

The point is to claim no more than what the workers finish soon: what is claimed and not started
keeps urgent work waiting, and is lost for a lease when the peer dies.
"""

from __future__ import annotations

from typing import Final

CLAIM_SECONDS: Final = 0.25
"""A claim is sized to what the slots of its queue finish in this time."""

FRAME_SECONDS: Final = 0.02
"""What a worker is given at once; it gets the next frame while it works on the last one."""

MOST_CLAIMED: Final = 1000
"""In one statement; and what is at hand at most, unless there are more slots."""
FIRST_CLAIMED: Final = 100
"""At most, while nobody knows how large the args are: 1,000 of 1 MiB would be a GB."""
MOST_IN_FRAME: Final = 500
MOST_BYTES: Final = 16 << 20
"""Of args in one claim, judged by the claim before, and in one frame."""

_RISE: Final = 0.5
_FALL: Final = 0.1


class DurationEstimate:
    """A running estimate of the seconds that one handler call of each kind takes.

    It rises fast and falls slowly: to take a slow kind for a quick one is the worse mistake.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, kind: str, seconds: float) -> None:
        """A call of `kind` took `seconds`."""
        known = self._seconds.get(kind)
        if known is None:
            self._seconds[kind] = seconds
        else:
            weight = _RISE if seconds > known else _FALL
            self._seconds[kind] = known + weight * (seconds - known)

    def seconds(self, kind: str) -> float:
        """What a call is expected to take; a kind that never ran counts as slow."""
        return self._seconds.get(kind, CLAIM_SECONDS)


def claim_size(slots: int, seconds: float) -> int:
    """How many tasks of `seconds` each a queue with `slots` should have at hand."""
    each = CLAIM_SECONDS / max(seconds, CLAIM_SECONDS / MOST_CLAIMED)
    return max(slots, min(MOST_CLAIMED, int(slots * each)))
