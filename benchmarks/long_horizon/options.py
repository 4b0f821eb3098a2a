"""What the harness tells its adapter: environment variables, and one file for the rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Options:
    """The variables of CONTRIBUTING_ADAPTERS.md, section 3, with the harness's defaults."""

    database_url: str
    instance: int
    depth_target: bool
    """Keep `target_depth` tasks in the queue; otherwise insert what the harness asks for."""
    target_depth: int
    rate: float
    rate_file: Path | None
    """Holds the present rate: the harness changes it for its high-load phases."""
    asks_on_stdin: bool
    """The harness sends a line `ENQUEUE n` for each batch; otherwise the adapter keeps the rate."""
    batch_max: int
    batch_seconds: float
    workers: int
    payload_bytes: int
    sample_seconds: int
    app: str
    """The module of the handlers."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables. Raise KeyError if there is no DATABASE_URL."""
        get = environment.get
        rate_file = get("PRODUCER_RATE_CONTROL_FILE")
        handlers = "handlers_async" if get("LONG_HORIZON_ASYNC") == "1" else "handlers"
        return cls(
            database_url=environment["DATABASE_URL"],
            instance=int(get("BENCH_INSTANCE_ID", "0")),
            depth_target=get("PRODUCER_MODE", "fixed") == "depth-target",
            target_depth=int(get("TARGET_DEPTH", "1000")),
            rate=float(get("PRODUCER_RATE", "800")),
            rate_file=Path(rate_file) if rate_file else None,
            asks_on_stdin=get("PRODUCER_PACING", "adapter") == "harness",
            batch_max=int(get("PRODUCER_BATCH_MAX", "128")),
            batch_seconds=int(get("PRODUCER_BATCH_MS", "25")) / 1000,
            workers=int(get("WORKER_COUNT", "32")),
            payload_bytes=int(get("JOB_PAYLOAD_BYTES", "256")),
            sample_seconds=int(get("SAMPLE_EVERY_S", "5")),
            app=f"benchmarks.long_horizon.{handlers}",
        )

    @property
    def observes(self) -> bool:
        """Whether this replica also reports what is true of the whole system."""
        return self.instance == 0
