"""All scenarios in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tests.fleet import disasters, operations
from tests.fleet.audit import audit_tasks
from tests.fleet.fleet import Fleet
from tests.fleet.journal import read_journal
from tests.fleet.report import Finding

_SHORT: Final = 5.0
"""Seconds. All slots are busy with tasks of 3 s, and then a host drains."""
_LONG: Final = 8.0


class Scenario(NamedTuple):
    """What is done to the fleet, and the longest time without a completed task that it allows."""

    run: Callable[[Fleet], Finding]
    pause_max: float | None = None
    """None: no work flows yet, or the pause is the point."""


SCENARIOS: Final = (
    Scenario(operations.migrate),
    Scenario(operations.start),
    Scenario(operations.security, _SHORT),
    Scenario(operations.handlers_under_hardening, _SHORT),
    Scenario(operations.wrong_configuration, _SHORT),
    Scenario(operations.stop_and_start, _SHORT),
    Scenario(operations.restart_target, _LONG),
    Scenario(operations.long_drain, _SHORT),
    Scenario(disasters.kill_main_process, _SHORT),
    Scenario(disasters.out_of_memory, _SHORT),
    Scenario(disasters.hang_peer, _SHORT),
    Scenario(disasters.cut_network, _SHORT),
    Scenario(disasters.power_cut, _SHORT),
    Scenario(operations.reboot, _LONG),
    Scenario(disasters.outage),
    Scenario(operations.long_lease, _SHORT),
    Scenario(operations.rolling_upgrade, _LONG),
    Scenario(operations.stop_all),
    Scenario(read_journal),
    Scenario(audit_tasks),
)

_ALWAYS: Final = ("migrate", "start", "audit_tasks")
"""Nothing can be done to a fleet that does not work, and each run ends with the audit."""

NAMES: Final = frozenset(each.run.__name__ for each in SCENARIOS)


def chosen(names: list[str]) -> list[Scenario]:
    """Return these scenarios and those of every run; without names, all."""
    wanted = {*names, *_ALWAYS} if names else NAMES
    return [each for each in SCENARIOS if each.run.__name__ in wanted]
