"""What peers run: `peers run --app nightly.tasks`."""

from __future__ import annotations

import csv
from datetime import date
from decimal import Decimal
from pathlib import Path

from peers import current_task, task


@task("nightly.extract", max_attempts=2, backoff=1)
def extract(day: date, region: str, source: Path) -> Decimal:
    """Return the sum of the region's orders of that day."""
    with source.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["day"] == day.isoformat()]
    return sum((Decimal(row["amount"]) for row in rows if row["region"] == region), Decimal(0))


@task("nightly.load")
def load(day: date) -> dict[str, str]:
    """Return the summary of the day; a real one would write it to a table."""
    total = sum((Decimal(parent.result) for parent in current_task().parents()), Decimal(0))
    return {"day": day.isoformat(), "total": str(total)}


@task("nightly.report")
def report(day: date) -> str:
    """Return what a real one would send by mail."""
    [loaded] = current_task().parents()
    if loaded.state != "completed":
        return f"{day}: the load failed; see `peers dead show {loaded.id}`"
    return f"{day}: {loaded.result['total']}"
