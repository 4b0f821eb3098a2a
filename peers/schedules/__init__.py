"""When a schedule is due: pure calendar arithmetic.

Nothing here reads a clock or a database. The same arguments give the same times on every peer.
"""

from __future__ import annotations

from peers.schedules.calendar import Calendar

__all__ = ["Calendar"]
