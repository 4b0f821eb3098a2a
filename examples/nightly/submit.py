"""Submit the graph of one day: `python -m nightly.submit DAY ORDERS`."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import peers
from nightly.tasks import extract, load, report

REGIONS = ("north", "south", "west")


def submit(day: date, source: Path) -> tuple[int, int]:
    """Submit the graph once, however often this is called; return its id and the report's."""
    with peers.graph(name="nightly", idempotency_key=f"nightly-{day}") as graph:
        extracted = [graph.add(extract, day=day, region=each, source=source) for each in REGIONS]
        loaded = graph.add(load.after(*extracted), day=day)
        reported = graph.add(report.after(loaded, on_parent_failure="run"), day=day)
    return graph.id, reported.id


def main() -> None:
    """Submit the graph, wait for its report and print it."""
    day, source = date.fromisoformat(sys.argv[1]), Path(sys.argv[2]).resolve()
    graph, reported = submit(day, source)
    print(report.result(reported, timeout=600))
    status = peers.graph_status(graph)
    print(f"graph {graph}: {status.completed} of {status.tasks} tasks completed")


if __name__ == "__main__":
    main()
