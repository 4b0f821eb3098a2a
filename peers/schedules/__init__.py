"""When a schedule is due: pure calendar arithmetic.

Nothing here reads a clock or a database. The same arguments give the same times on every peer.
"""

from __future__ import annotations

from peers.schedules.calendar import Calendar
from peers.schedules.policy import Misfire, RunPlan, jittered, plan_runs

__all__ = ["Calendar", "Misfire", "RunPlan", "jittered", "plan_runs"]
