"""All systems, in the order of the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from benchmarks.systems.node_systems import GRAPHILE, PG_BOSS, graphile, pg_boss
from benchmarks.systems.peers import NAME, peers
from benchmarks.systems.python_systems import PGQUEUER, PROCRASTINATE, pgqueuer, procrastinate
from benchmarks.systems.system import NotInstalledError, System

SYSTEMS: Final[dict[str, Callable[[], System]]] = {
    NAME: peers,
    GRAPHILE: graphile,
    PG_BOSS: pg_boss,
    PGQUEUER: pgqueuer,
    PROCRASTINATE: procrastinate,
}


class Available(NamedTuple):
    """What can be measured here, and what cannot, each with the reason."""

    systems: list[System]
    missing: dict[str, str]


def available(names: list[str]) -> Available:
    """Install the systems of these names."""
    systems, missing = [], {}
    for name in names:
        try:
            systems.append(SYSTEMS[name]())
        except NotInstalledError as error:
            missing[name] = str(error)
    return Available(systems, missing)
