"""When a schedule is due: pure calendar arithmetic.

Nothing here reads a clock or a database. The same arguments give the same times on every peer.
"""

from __future__ import annotations

from peers.schedules.calendar import Calendar
from peers.schedules.cron import parse_cron

__all__ = ["Calendar", "parse_cron"]
