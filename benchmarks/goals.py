"""What we want to reach, and whether a run reached it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Figures, ratio
from benchmarks.systems.node_systems import GRAPHILE
from benchmarks.systems.peers import NAME as PEERS
from benchmarks.workloads.takeover import ELSEWHERE, RESTARTED, SAME_HOST


class Verdict(enum.Enum):
    """How a goal came out."""

    MET = "met"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure and its bound."""

    key: str
    """Its name in `benchmarks/notes.toml`, where a sentence says why it was missed."""
    title: str
    bound: float
    unit: str
    measure: Callable[[Figures], float | None]
    at_most: bool = False
    """The figure may be the bound or less; else the bound or more."""
    below: bool = False
    """The bound itself is not good enough."""

    def verdict(self, figure: float | None) -> Verdict:
        """Compare a figure with the bound."""
        if figure is None:
            return Verdict.NOT_MEASURED
        if self.below:
            reached = figure < self.bound
        else:
            reached = figure <= self.bound if self.at_most else figure >= self.bound
        return Verdict.MET if reached else Verdict.MISSED

    def target(self) -> str:
        """Return the bound in words."""
        sign = "<" if self.below else "≤" if self.at_most else "≥"
        return f"{sign} {_number(self.bound)}{self.unit}"

    def text(self, figure: float | None) -> str:
        """Return a figure in the goal's unit."""
        return "–" if figure is None else f"{_number(figure)}{self.unit}"


def _number(value: float) -> str:
    large = 100
    return f"{value:,.0f}" if abs(value) >= large or value == int(value) else f"{value:.3g}"


def _of_peers(workload: str, field: str, **where: object) -> Callable[[Figures], float | None]:
    return lambda figures: figures.median(workload, field, system=PEERS, **where)


def _beside_graphile(workload: str, field: str) -> Callable[[Figures], float | None]:
    return lambda figures: ratio(
        figures.median(workload, field, system=PEERS),
        figures.median(workload, field, system=GRAPHILE),
    )


def _of_best_peers(peers: int) -> Callable[[Figures], float | None]:
    """Divide the rate of so many peers by that of the best number of peers. Start-up counts."""

    def measure(figures: Figures) -> float | None:
        rate = figures.median("many peers", "rate", peers=peers, running=False)
        return ratio(rate, max(figures.values("many peers", "rate", running=False), default=0.0))

    return measure


def _efficiency(slots: int) -> Callable[[Figures], float | None]:
    def measure(figures: Figures) -> float | None:
        share = figures.median("overhead", "efficiency", slots=slots, milliseconds=28.2)
        return None if share is None else share * 100

    return measure


def _slowest_takeover(case: str) -> Callable[[Figures], float | None]:
    def measure(figures: Figures) -> float | None:
        seconds = figures.values("takeover", "seconds", case=case)
        return max(seconds) if seconds else None

    return measure


def _after_the_lease(figures: Figures) -> float | None:
    slowest = _slowest_takeover(ELSEWHERE)(figures)
    lease = figures.median("takeover", "lease_seconds")
    return None if slowest is None or lease is None else slowest - lease


GOALS: Final = (
    Goal("drain", "drain, compared with graphile-worker", 2, " ×",
         _beside_graphile("drain", "rate")),
    Goal("cpu_postgres", "CPU of Postgres for each task", 12, " µs",
         _of_peers("drain", "postgres_us"), at_most=True),
    Goal("cpu_client", "CPU of the peers for each task", 6, " µs",
         _of_peers("drain", "client_us"), at_most=True),
    Goal("pickup_p50", "pickup when idle, p50, compared with graphile-worker", 1.05, " ×",
         _beside_graphile("pickup", "p50_ms"), at_most=True),
    Goal("pickup_p99", "pickup when idle, p99", 3, " ms",
         _of_peers("pickup", "p99_ms"), at_most=True),
    Goal("snapshot", "old snapshot held: rate of the last sixth / first sixth", 0.9, "",
         _of_peers("snapshot", "last_to_first")),
    Goal("long_life", "long life: rate of the last tenth / first tenth", 0.9, "",
         _of_peers("long life", "last_to_first", retention=None)),
    Goal("peers_8", "8 peers / the best number of peers", 0.9, "", _of_best_peers(8)),
    Goal("peers_16", "16 peers / the best number of peers", 0.9, "", _of_best_peers(16)),
    Goal("chains", "graph: chains of 10", 40_000, " tasks/s",
         _of_peers("graphs", "rate", shape="chains")),
    Goal("fan", "graph: 1 → 1,000 → 1", 30_000, " tasks/s",
         _of_peers("graphs", "rate", shape="fan")),
    Goal("submit_single", "submit one by one", 4_000, " tasks/s",
         _of_peers("submit", "single_rate")),
    Goal("submit_bulk", "submit in bulk", 150_000, " tasks/s",
         _of_peers("submit", "bulk_rate")),
    Goal("idle_connections", "connections of an idle peer", 2, "",
         _of_peers("idle", "connections"), at_most=True),
    Goal("idle_statements", "statements of an idle peer", 1, " /s",
         _of_peers("idle", "statements_per_second"), below=True),
    Goal("waits_8", "8 sync waits of 28.2 ms at once: share of the ideal", 99, " %",
         _efficiency(8)),
    Goal("waits_64", "64 async waits at once", 96, " %", _efficiency(64)),
    Goal("waits_256", "256 async waits at once", 93, " %", _efficiency(256)),
    Goal("takeover", "kill -9 → the task runs again, the host lives, slowest", 2, " s",
         _slowest_takeover(SAME_HOST), below=True),
    Goal("takeover_restart", "the same by a peer that starts 2 s later, from its start", 2, " s",
         _slowest_takeover(RESTARTED), below=True),
    Goal("takeover_lease", "the same on another host: time beyond the lease, slowest", 2, " s",
         _after_the_lease, at_most=True),
)  # fmt: skip
