"""The cells: what is run, for how long, and what awa's published run of the same cell came to.

The phases and loads are those of the harness's published sweep (`scripts/run_full_sweep.sh`), which
`--full` runs as they are. Without it each phase is shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

HARNESS: Final = "https://github.com/hardbyte/postgresql-job-queue-benchmarking"
COMMIT: Final = "93677cab92dad89ee9eccb0d6e113893de43cbe6"
PUBLISHED: Final = f"{HARNESS}/blob/{COMMIT[:12]}/results/2026-05-09-full-sweep/SUMMARY.md"
"""The published sweep: eight systems, Postgres 18.3, four CPUs for Postgres alone."""

Group = Literal["chaos", "pressure", "throughput"]


@dataclass(frozen=True)
class Published:
    """Median jobs completed a second in awa's published run, before and under stress."""

    calm: float | None
    stressed: float | None
    """Of a chaos cell: after the stress, as in the published table."""


_NONE: Final = Published(None, None)


@dataclass(frozen=True)
class Cell:
    """One run of the harness."""

    name: str
    title: str
    group: Group
    calm: str
    """The phase that the others are compared with."""
    stress: str | None
    recovery: str | None
    phases: tuple[str, ...]
    full: tuple[str, ...]
    """The phases of the published run."""
    arguments: tuple[str, ...]
    awa: Published
    environment: dict[str, str] = field(default_factory=dict)


def _chaos(
    name: str, title: str, stress: tuple[str, str], awa: Published, *, replicas: int = 1
) -> Cell:
    short, full = stress
    return Cell(
        name, title, "chaos", "baseline", short.partition("=")[0], "recovery",
        ("warmup=warmup:10s", "baseline=clean:20s", *short.split(), "recovery=clean:20s"),
        ("warmup=warmup:30s", "baseline=clean:60s", *full.split(), "recovery=clean:60s"),
        (f"--replicas={replicas}", f"--producer-rate={600 // replicas}", "--worker-count=32"),
        awa,
    )  # fmt: skip


def _pressure(
    name: str,
    title: str,
    phase: str,
    full: tuple[int, int],
    load: tuple[str, ...],
    awa: Published,
    **environment: str,
) -> Cell:
    return Cell(
        name, title, "pressure", "clean_1", "stress_1", "recovery_1",
        ("warmup=warmup:10s", "clean_1=clean:20s", f"stress_1={phase}:50s", "recovery_1=clean:25s"),
        ("warmup=warmup:30s", "clean_1=clean:60s", f"stress_1={phase}:{full[0]}s",
         f"recovery_1=clean:{full[1]}s"),
        load, awa, environment,
    )  # fmt: skip


_SATURATED: Final = (
    "--producer-mode=depth-target", "--target-depth=2000", "--producer-rate=800",
    "--worker-count=32",
)  # fmt: skip
"""As awa ran: always 2,000 jobs in the queue."""


def _offered(rate: int, workers: int) -> tuple[str, ...]:
    """Offer a fixed rate: a high-load phase raises only a rate, not a target depth."""
    return (f"--producer-rate={rate}", f"--worker-count={workers}")


def _throughput(workers: int, awa: Published) -> Cell:
    return Cell(
        f"throughput_{workers}", f"{workers} at once, always 4,000 jobs in the queue",
        "throughput", "clean", None, None,
        ("warmup=warmup:10s", "clean=clean:30s"), ("warmup=warmup:30s", "clean=clean:180s"),
        ("--producer-mode=depth-target", "--target-depth=4000", "--producer-rate=50000",
         f"--worker-count={workers}"),
        awa,
    )  # fmt: skip


CELLS: Final = (
    _chaos(
        "crash_recovery", "SIGKILL one of two replicas, start it again",
        ("kill=kill-worker(instance=0):20s restart=start-worker(instance=0):20s",
         "kill=kill-worker(instance=0):60s restart=start-worker(instance=0):60s"),
        Published(601, 589), replicas=2,
    ),
    _chaos(
        "repeated_kills", "SIGKILL one of two replicas again and again",
        ("repeated=repeated-kill(instance=0,period=5s):45s",
         "repeated=repeated-kill(instance=0,period=20s):120s"),
        Published(597, 594), replicas=2,
    ),
    _chaos(
        "pg_backend_kill", "terminate all busy backends, twice a second",
        ("kills=pg-backend-kill(rate=2):20s", "kills=pg-backend-kill(rate=2):60s"),
        Published(600, 599),
    ),
    _chaos(
        "postgres_restart", "stop Postgres, start it after half of the phase",
        ("restart=postgres-restart:20s", "restart=postgres-restart:60s"),
        Published(600, 602),
    ),
    _chaos(
        "pool_exhaustion", "300 idle connections of 400",
        ("exhaustion=pool-exhaustion(idle_conns=300):20s",
         "exhaustion=pool-exhaustion(idle_conns=300):60s"),
        Published(600, 600),
    ),
    _pressure(
        "idle_in_tx", "a writing transaction stays open", "idle-in-tx", (240, 180),
        _SATURATED, Published(2851, 2139),
    ),
    _pressure(
        "sustained_high_load", "1.5 times the rate", "high-load", (240, 120),
        _offered(3700, 32), Published(3691, 2680),
    ),
    _pressure(
        "active_readers", "four readers with old snapshots", "active-readers", (240, 120),
        _SATURATED, Published(3518, 2503),
    ),
    _pressure(
        "event_burst", "1.5 times a higher rate", "high-load", (300, 240),
        _offered(6200, 64), Published(6189, 4934),
    ),
    _pressure(
        "active_readers_history", "four readers count all jobs that ever were", "active-readers",
        (240, 120), _SATURATED, _NONE, ACTIVE_READER_SQL="select count(*) from peers.task",
    ),
    _throughput(16, Published(1729, None)),
    _throughput(64, Published(5369, None)),
    _throughput(256, Published(14158, None)),
)  # fmt: skip
