"""How large each workload is, and how often it runs. All of it is decided before a run begins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of one mode. Times are in seconds."""

    mode: str
    rounds: int = 3
    drain_tasks: int = 100_000
    bulk_tasks: int = 60_000
    single_tasks: int = 1_500
    pickup_rounds: int = 2
    pickup_samples: int = 120
    load_seconds: float = 5.0
    """0: pickup is not measured under load."""
    graph_rounds: int = 3
    chain_tasks: int = 3_000
    layer_tasks: int = 20_000
    random_tasks: int = 20_000
    large_graph_tasks: int = 0
    """Tasks of one more random graph. 0: none."""
    snapshot_rounds: int = 1
    snapshot_tasks: int = 120_000
    life_tasks: int = 400_000
    life_retention: str | None = None
    """How long finished tasks are kept in a second run. None: there is no second run."""
    backlogs: tuple[int, ...] = (10, 100_000)
    blocked_tasks: int = 100_000
    finished_tasks: int = 100_000
    unrunnable_tasks: int = 300_000
    claim_seconds: float = 6.0
    peers: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    peer_tasks: int = 100_000
    idle_seconds: float = 15.0
    overhead_seconds: float = 8.0
    takeovers: int = 3


DEFAULT: Final = Sizes("default")
QUICK: Final = replace(
    DEFAULT, mode="quick", rounds=1, drain_tasks=60_000, bulk_tasks=20_000, single_tasks=500,
    pickup_rounds=1, pickup_samples=100, load_seconds=0.0, graph_rounds=1, layer_tasks=10_000,
    random_tasks=10_000, life_tasks=150_000, blocked_tasks=20_000, finished_tasks=20_000,
    unrunnable_tasks=50_000, claim_seconds=2.0, peers=(2, 8, 16), peer_tasks=50_000,
    idle_seconds=8.0, overhead_seconds=2.0, takeovers=1,
)  # fmt: skip
LONG: Final = replace(
    DEFAULT, mode="long", rounds=5, drain_tasks=200_000, pickup_rounds=3, pickup_samples=300,
    graph_rounds=5, large_graph_tasks=1_000_000, snapshot_rounds=3, life_tasks=1_500_000,
    life_retention="10s", backlogs=(10, 100_000, 10_000_000), blocked_tasks=1_000_000,
    finished_tasks=1_000_000, claim_seconds=15.0, idle_seconds=60.0, overhead_seconds=40.0,
    takeovers=10,
)  # fmt: skip
SMOKE: Final = replace(
    QUICK, mode="smoke", drain_tasks=3_000, bulk_tasks=2_000, single_tasks=50, pickup_samples=20,
    load_seconds=1.0, chain_tasks=300, layer_tasks=3_000, random_tasks=1_000, snapshot_tasks=6_000,
    life_tasks=5_000, backlogs=(10, 2_000), blocked_tasks=1_000, finished_tasks=1_000,
    unrunnable_tasks=1_000, claim_seconds=1.0, peers=(1, 2), peer_tasks=3_000, idle_seconds=3.0,
    overhead_seconds=0.3, takeovers=1,
)  # fmt: skip
"""Only to see that everything runs: its figures mean nothing."""
