"""Print results as tables, and write docs/long-horizon.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.long_horizon.cells import CELLS, COMMIT, HARNESS, PUBLISHED, Cell, Group
from benchmarks.long_horizon.verdict import Result

_HEADS: Final[Mapping[Group, tuple[str, ...]]] = {
    "chaos": (
        "chaos", "what happens", "before", "during", "after", "after ÷ before", "awa: before",
        "awa: after ÷ before", "jobs", "lost", "run again", "",
    ),
    "pressure": (
        "pressure", "what happens", "before", "during", "after", "during ÷ before", "awa: before",
        "awa: during ÷ before", "jobs", "lost", "run again", "",
    ),
    "throughput": (
        "throughput", "what happens", "jobs/s", "INSERT to start, p99, ms", "awa: jobs/s", "jobs",
        "lost", "run again", "",
    ),
}  # fmt: skip
_TEMPLATE: Final = Path(__file__).with_name("page_template.md")
_MISSING: Final = "-"
_PASSED: Final = {True: "pass", False: "FAIL"}


def line(cell: Cell, result: Result) -> str:
    """Return one line about a cell that has just ended."""
    audit = result.audit
    return (
        f"{cell.name}: {_PASSED[result.passed]} in {result.seconds:.0f} s,"
        f" jobs/s {_rate(result.calm)} → {_rate(result.stressed)} → {_rate(result.recovered)},"
        f" jobs {audit.jobs:,}, lost {audit.lost}, run again {audit.calls - audit.completed},"
        f" problems {audit.problems}, exit code {result.exit_code}"
    )


def tables(results: Mapping[str, Result]) -> str:
    """Return a table for each group of cells that was run."""
    found = [_table(group, results) for group in _HEADS]
    return "\n\n".join(table for table in found if table)


def _table(group: Group, results: Mapping[str, Result]) -> str:
    cells = [cell for cell in CELLS if cell.group == group and cell.name in results]
    if not cells:
        return ""
    heads = _HEADS[group]
    rows = [heads, ["---"] * len(heads), *(_row(cell, results[cell.name]) for cell in cells)]
    passed = sum(results[cell.name].passed for cell in cells)
    text = "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)
    return f"{text}\n\nPassed: {passed} of {len(cells)}."


def _row(cell: Cell, result: Result) -> list[str]:
    audit, awa = result.audit, cell.awa
    if cell.group == "throughput":
        figures = [_rate(result.calm), _rate(result.claim_p99), _rate(awa.calm)]
    else:
        compared = result.recovered if cell.group == "chaos" else result.stressed
        figures = [
            _rate(result.calm), _rate(result.stressed), _rate(result.recovered),
            _share(compared, result.calm), _rate(awa.calm), _share(awa.stressed, awa.calm),
        ]  # fmt: skip
    return [
        f"`{cell.name}`", cell.title, *figures, f"{audit.jobs:,}", str(audit.lost),
        str(audit.calls - audit.completed), _PASSED[result.passed],
    ]  # fmt: skip


def _rate(value: float | None) -> str:
    return _MISSING if value is None else f"{value:,.0f}"


def _share(value: float | None, of: float | None) -> str:
    return _MISSING if value is None or not of else f"{value / of:.0%}"


def page(results: Mapping[str, Result], *, full: bool) -> str:
    """Return the page of the documentation."""
    phases = "as long as the published ones" if full else "shorter than the published ones"
    return _TEMPLATE.read_text().format(
        harness=HARNESS, commit=COMMIT[:12], published=PUBLISHED, cpus=os.cpu_count(),
        phases=phases, tables=tables(results),
    )  # fmt: skip
