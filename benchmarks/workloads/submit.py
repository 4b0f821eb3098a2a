"""Submit: one task after the other, and many in each call, from one client."""

from __future__ import annotations

from benchmarks.bench import Bench


def measure(bench: Bench) -> None:
    """Measure tasks a second; each submission is committed."""
    sizes = bench.sizes
    for number, system in bench.alternate(sizes.rounds, bench.systems):
        with bench.failures_of("submit", system), bench.database(system) as url:
            bulk_tasks = max(1000, round(sizes.bulk_tasks * system.share))
            bulk = system.call(url, "bulk", 0, bulk_tasks)["seconds"]
            single = system.call(url, "single", sizes.single_tasks)["seconds"]
            bench.add(
                "submit", system, round=number, bulk_tasks=bulk_tasks,
                bulk_rate=round(bulk_tasks / bulk, 1),
                single_tasks=sizes.single_tasks,
                single_rate=round(sizes.single_tasks / single, 1),
            )  # fmt: skip
