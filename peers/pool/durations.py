"""Estimate how long handlers take, and derive the sizes of claims and assignments from it.

A peer should claim no more than its workers finish soon. Tasks that are claimed and not started
delay urgent work, and when the peer dies they wait until its lease has expired.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CLAIM_SECONDS: Final = 0.25
"""A claim is sized to what the slots of its queue finish in this time."""
CLAIM_MAX_TASKS: Final = 1000
"""In one statement."""
HELD_MAX_TASKS: Final = 2 * CLAIM_MAX_TASKS
"""Of a queue, unless it has more slots: workers run one claim while the next one is made."""

ASSIGNMENT_SECONDS: Final = 0.02
"""An assignment is sized to what a worker finishes in this time. It gets the next one meanwhile."""
ASSIGNMENT_MAX_TASKS: Final = CLAIM_MAX_TASKS
"""A whole claim of quick tasks is one assignment, so that its columns pass as they came."""

ARGS_MAX_BYTES: Final = 16 << 20
"""The args of one claim, judged by the claim before, and of one assignment."""

assert ASSIGNMENT_SECONDS < CLAIM_SECONDS
assert ASSIGNMENT_MAX_TASKS <= CLAIM_MAX_TASKS

_RISE: Final = 0.5
_FALL: Final = 0.1


class DurationEstimate:
    """A running estimate of the seconds that one handler call of each kind takes.

    It rises fast and falls slowly, because taking a slow kind for a quick one is the worse mistake.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def note(self, kind: str, seconds: float, calls: int = 1) -> None:
        """Update the estimate: each of some calls of `kind` took `seconds`."""
        known = self._seconds.get(kind)
        if known is None:
            self._seconds[kind] = seconds
        else:
            weight = _RISE if seconds > known else _FALL
            self._seconds[kind] = seconds + (1 - weight) ** calls * (known - seconds)

    def seconds(self, kind: str) -> float:
        """Return how long a call is expected to take; a kind that never ran counts as slow."""
        return self._seconds.get(kind, CLAIM_SECONDS)

    def total(self, kinds: Sequence[str], count: int) -> float:
        """Return the same for `count` calls; `kinds`: one if all have the same, or one for each."""
        if len(kinds) == 1:
            return self.seconds(kinds[0]) * count
        return sum(map(self.seconds, kinds))


def claim_size(slots: int, seconds: float) -> int:
    """Return how many tasks of `seconds` each the peer should hold for a queue with `slots`."""
    each = CLAIM_SECONDS / max(seconds, CLAIM_SECONDS / HELD_MAX_TASKS)
    return max(slots, min(HELD_MAX_TASKS, int(slots * each)))
