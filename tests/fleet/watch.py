"""What changes in the fleet while a scenario runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from tests.fleet.machines import Machine
from tests.fleet.report import Finding

if TYPE_CHECKING:
    from tests.fleet.fleet import Fleet

LEASE: Final = 30.0
RECLAIMED_WITHIN: Final = LEASE + 2.5
"""Seconds: two after the lease, as promised, and half a one to see it."""
START: Final = 60.0
"""Seconds within which a peer starts, also on a machine that is busy with other work."""

_LOOK_AGAIN: Final = 0.05


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Give a function that returns the seconds since the beginning, or those of the whole block."""
    began, ended = time.monotonic(), 0.0
    yield lambda: (ended or time.monotonic()) - began
    ended = time.monotonic()


def until(condition: Callable[[], object], what: str, within: float) -> float:
    """Wait for a condition, and return the seconds that it took. Raises `TimeoutError`."""
    began = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - began
        except psycopg.OperationalError:
            pass  # the database is away
        if time.monotonic() - began > within:
            raise TimeoutError(f"waited {within:.0f} s for {what}")
        time.sleep(_LOOK_AGAIN)


def on_all(hosts: list[Machine], *command: str) -> None:
    """Run a command on all of these hosts at the same time."""
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda host: host.run(*command), hosts))


class Changes:
    """What has changed since this object was made: failures, restarts, main processes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last_failure = fleet.value("select coalesce(max(id), 0) from peers.failure")
        self._restarts, self._pids = fleet.restarts(), fleet.pids()

    def failures(self) -> dict[str, int]:
        """Return how many failures of each type there are."""
        query = "select error_type, count(*) as n from peers.failure where id > %s group by 1"
        rows = self._fleet.rows(query, self._last_failure)
        return {row["error_type"]: row["n"] for row in rows}

    def restarts(self) -> dict[str, int]:
        """Return how often systemd has restarted each peer; those with none are left out."""
        after = self._fleet.restarts()
        return {name: after[name] - n for name, n in self._restarts.items() if after[name] != n}

    def note_no_failure(self, finding: Finding) -> None:
        """Add how many attempts were lost; expect none."""
        finding.same("attempts lost", sum(self.failures().values()), 0)

    def note_lost(self, finding: Finding, at_most: int) -> None:
        """Add how many attempts were lost; expect so many, and no other failure."""
        found = self.failures()
        fits = set(found) <= {"lost"} and sum(found.values()) <= at_most
        finding.note(
            f"attempts lost: {found.get('lost', 0)}" if fits else f"failures: {found}", fits
        )

    def note_restarts(self, finding: Finding, *expected: str) -> None:
        """Add which peers systemd has restarted; expect these, once each."""
        found = [f"{name} {n} times" if n > 1 else name for name, n in self.restarts().items()]
        finding.same("restarts", ", ".join(found) or "none", ", ".join(expected) or "none")

    def note_same_processes(self, finding: Finding) -> None:
        """Expect that each main process still runs."""
        finding.same("main processes replaced", sum(
            pid != self._pids[name] for name, pid in self._fleet.pids().items()), 0)  # fmt: skip
