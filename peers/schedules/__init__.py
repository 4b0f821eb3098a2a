"""When a schedule is due: pure calendar arithmetic.

Nothing here reads a clock or a database. The same arguments give the same times on every peer.
"""

# Calendar is imported at its first use: every app loads `Schedule`, and APScheduler takes 0.1 s.

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.schedules.schedule import Misfire, Overlap, Schedule, interval

if TYPE_CHECKING:
    from peers.schedules.calendar import Calendar

__all__ = ["Calendar", "Misfire", "Overlap", "Schedule", "interval"]


if not TYPE_CHECKING:  # for a type checker, any name would exist

    def __getattr__(name: str) -> object:
        if name == "Calendar":
            from peers.schedules.calendar import Calendar

            globals()[name] = Calendar
            return Calendar
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
