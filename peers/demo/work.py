"""The middle of the demo: watch the peers until every task has ended; halfway, kill one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from peers.demo.errors import DemoError
from peers.demo.fleet import LEASE_SECONDS
from peers.demo.kill import Killed, kill_one

if TYPE_CHECKING:
    from peers.demo.fleet import Fleet
    from peers.demo.show import Progress
    from peers.demo.watch import Tally, Watch

_LOOK_EVERY_SECONDS = 0.1
_STUCK_AFTER_SECONDS = 60


def work(fleet: Fleet, watch: Watch, progress: Progress, *, kill: bool) -> Killed | None:
    """Watch until every task has ended; tells whom we killed.

    Raises DemoError when a peer falls by itself, or when nothing ends for a minute.
    """
    progress.say(f"{len(fleet.members)} peers are starting; their leases last {LEASE_SECONDS} s")
    accident = Accident(fleet, watch, progress) if kill else None
    patience = Patience(fleet)
    while True:
        tally = watch.tally()
        progress.show(tally, fleet)
        if accident is not None:
            accident.look(tally)
        if tally.ended == tally.total:
            progress.end()
            return accident.killed if accident is not None else None
        patience.check(tally)
        time.sleep(_LOOK_EVERY_SECONDS)


class Accident:
    """Happens once, when half of the files are done; then it is told what became of it."""

    def __init__(self, fleet: Fleet, watch: Watch, progress: Progress) -> None:
        self._fleet = fleet
        self._watch = watch
        self._progress = progress
        self._reclaim_told = False
        self.killed: Killed | None = None

    def look(self, tally: Tally) -> None:
        """See whether it is time."""
        if self.killed is not None:
            if tally.reclaimed_from_killed and not self._reclaim_told:
                self._reclaim_told = True
                self._progress.say(
                    f"the others reclaimed {tally.reclaimed_from_killed} of its leases"
                )
        elif 2 * tally.files_ended >= tally.files:
            self.killed = kill_one(self._fleet, self._watch)
            if self.killed is not None:
                self._progress.say(
                    f"peer {self.killed.member.number} (pid {self.killed.member.pid}) holds "
                    f"{self.killed.leases} leases: killed with SIGKILL"
                )


class Patience:
    """Ends when a peer falls that nobody killed, or when nothing goes on any more."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ended = -1
        self._since = time.monotonic()

    def check(self, tally: Tally) -> None:
        """Raises DemoError when it ends."""
        fallen = self._fleet.fallen()
        if fallen is not None:
            raise DemoError(
                f"peer {fallen.number} ended by itself, exit code {fallen.process.returncode}. "
                f"It said:\n{fallen.log_tail()}"
            )
        now = time.monotonic()
        if tally.ended != self._ended:
            self._ended, self._since = tally.ended, now
        elif now - self._since > _STUCK_AFTER_SECONDS:
            logs = "\n".join(member.log_tail() for member in self._fleet.members)
            raise DemoError(
                f"no task ended for {_STUCK_AFTER_SECONDS} s, {tally.ended} of {tally.total} have. "
                f"The peers said:\n{logs}"
            )
