"""Medians and percentiles of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.bench import Row


class Figures:
    """The rows of a run, by workload."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def rows(self, workload: str, **where: object) -> list[Row]:
        """Return the rows of a workload with these values, in the order of the run."""
        wanted = {"workload": workload, **where}
        return [row for row in self._rows if wanted.items() <= _hashable(row).items()]

    def values(self, workload: str, field: str, **where: object) -> list[float]:
        """Return one figure of every such row that has it."""
        rows = self.rows(workload, **where)
        return [row[field] for row in rows if row.get(field) is not None]

    def median(self, workload: str, field: str, **where: object) -> float | None:
        """Return the median of one figure, or None if it was not measured."""
        values = self.values(workload, field, **where)
        return statistics.median(values) if values else None

    def spread(self, workload: str, field: str, **where: object) -> tuple[float, float] | None:
        """Return the least and the greatest of one figure, or None if it was not measured."""
        values = self.values(workload, field, **where)
        return (min(values), max(values)) if values else None

    def error(self, workload: str, **where: object) -> str | None:
        """Return why such a run failed, or None."""
        return next((row["error"] for row in self.rows(workload, **where) if "error" in row), None)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(rank) - 1)]


def ratio(part: float | None, whole: float | None) -> float | None:
    """Return part / whole, or None if either was not measured."""
    return part / whole if part is not None and whole else None


def _hashable(row: Row) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not isinstance(value, (list, dict))}
