"""Long life: two peers run very many tasks in one go."""

from __future__ import annotations

from typing import Final

from benchmarks.bench import Bench
from benchmarks.server import connect
from benchmarks.workloads.draining import drain

PARTS: Final = 10
WORKERS: Final = 2


def measure(bench: Bench) -> None:
    """Measure how the rate changes from tenth to tenth, and how large the tables become."""
    _measure(bench, None)
    if bench.sizes.life_retention:
        _measure(bench, bench.sizes.life_retention)


def _measure(bench: Bench, retention: str | None) -> None:
    peers, tasks = bench.peers, bench.sizes.life_tasks
    options = [f"--keep-completed={retention}"] if retention else []
    with bench.failures_of("long life", peers), bench.filled(peers, tasks) as url:
        drained = drain(bench, peers, url, tasks, WORKERS, *options)
        rates = drained.part_rates(PARTS)
        bench.add(
            "long life", peers, retention=retention, **drained.figures(),
            rates=[round(rate) for rate in rates], last_to_first=round(rates[-1] / rates[0], 3),
            mib=_sizes(url),
        )  # fmt: skip


def _sizes(url: str) -> dict[str, float]:
    """Return the size of each table with its indexes, in MiB."""
    with connect(url) as connection:
        rows = connection.execute(
            "select relname, round(pg_total_relation_size(oid) / 1048576.0, 1)::float"
            " from pg_class where relnamespace = 'peers'::regnamespace and relkind = 'r'"
        ).fetchall()
    return {name: size for name, size in rows if size >= 1}
