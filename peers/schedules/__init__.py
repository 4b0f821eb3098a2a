"""When a schedule is due: pure calendar arithmetic.

Nothing here reads a clock or a database. The same arguments give the same times on every peer.
Import `peers.schedules.calendar` where it is used: every app loads `Schedule`, and APScheduler
takes 0.1 s.
"""

from peers.schedules.schedule import Misfire, Overlap, Schedule, moment_text

__all__ = ["Misfire", "Overlap", "Schedule", "moment_text"]
