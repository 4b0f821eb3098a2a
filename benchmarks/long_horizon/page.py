"""Print results as tables, and write docs/long-horizon.md."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from benchmarks.long_horizon.cells import CELLS, COMMIT, HARNESS, PUBLISHED, Cell, Group
from benchmarks.long_horizon.verdict import Result

_HEADS: Final = {
    "chaos": ("before", "during", "after", "after ÷ before", "awa: before", "awa: after ÷ before"),
    "pressure": (
        "before",
        "during",
        "after",
        "during ÷ before",
        "awa: before",
        "awa: during ÷ before",
    ),
}
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
    parts = [_table(group, results) for group in ("chaos", "pressure")]
    throughput = [_throughput(cell, results[cell.name]) for cell in _cells("throughput", results)]
    return "\n\n".join(part for part in [*parts, *throughput] if part)


def _cells(group: Group, results: Mapping[str, Result]) -> list[Cell]:
    return [cell for cell in CELLS if cell.group == group and cell.name in results]


def _table(group: Group, results: Mapping[str, Result]) -> str:
    cells = _cells(group, results)
    if not cells:
        return ""
    heads = [group, "what happens", *_HEADS[group], "jobs", "lost", "run again", ""]
    rows = [heads, ["---"] * len(heads), *(_row(cell, results[cell.name]) for cell in cells)]
    passed = sum(results[cell.name].passed for cell in cells)
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{text}\n\nPassed: {passed} of {len(cells)}."


def _row(cell: Cell, result: Result) -> list[str]:
    compared = result.recovered if cell.group == "chaos" else result.stressed
    awa = cell.awa
    return [
        f"`{cell.name}`", cell.title, _rate(result.calm), _rate(result.stressed),
        _rate(result.recovered), _share(compared, result.calm), _rate(awa.calm),
        _share(awa.stressed, awa.calm), f"{result.audit.jobs:,}", str(result.audit.lost),
        str(result.audit.calls - result.audit.completed), _PASSED[result.passed],
    ]  # fmt: skip


def _throughput(cell: Cell, result: Result) -> str:
    return (
        f"Throughput: {_rate(result.calm)} jobs/s, from INSERT to start {_rate(result.claim_p99)} ms"
        f" (p99), with {cell.title}; awa's best: {_rate(cell.awa.calm)} jobs/s. Every one of"
        f" {result.audit.jobs:,} jobs completed; lost: {result.audit.lost}."
    )


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _share(value: float | None, of: float | None) -> str:
    return "–" if value is None or not of else f"{value / of:.0%}"


def page(results: Mapping[str, Result], *, full: bool) -> str:
    """Return the page of the documentation."""
    phases = "as long as the published ones" if full else "shorter than the published ones"
    return f"""\
<!-- Written by `make bench-long-horizon ARGS='--page docs/long-horizon.md'`. Do not edit by hand. -->

# Long-horizon harness

[postgresql-job-queue-benchmarking]({HARNESS}) is a public harness that compares job queues in Postgres: their
throughput, and what they do when processes are killed, connections break, or old snapshots stay open.
`make bench-long-horizon` runs its own code (commit `{COMMIT[:12]}`) on one machine without containers, with the
adapter in `benchmarks/long_horizon/`. The columns "awa" are the figures that the harness's authors
[published]({PUBLISHED}) for awa, the fastest job queue of their run.

The two are not the same test. Theirs ran on a workstation that gave four CPUs to Postgres alone. Ours ran on
{os.cpu_count()} CPUs that Postgres, the peers, the producer and the harness share. Compare the ratios, not the rates. The
phases here are {phases}. All rates are medians of jobs completed per second. Each job waits for 1 ms.
Commits are durable.

{tables(results)}

## What a cell must do to pass

By the harness's published table, a chaos cell passes if jobs are completed again after the chaos; a pressure cell
passes if its run reaches the end, the shutdown of the adapter included. Here another peer then finishes what is left, and no job may
be lost: each acknowledged `INSERT` must have become a completed task, and `peers.check()` must find nothing. "Run
again" counts handler calls beyond one for each job, which at-least-once execution allows.

## How it differs from the published run

- Postgres 18 runs from the wheel of the embedded database, with the harness's `postgres.conf`. It has no
  `pgstattuple`, so the share of dead rows is not recorded.
- awa's pressure cells kept 2,000 jobs in the queue, a mode in which the harness's high-load phase changes nothing. In
  `sustained_high_load` and `event_burst`, Peers is offered a fixed rate as high as awa's rate in the calm phase, and
  1.5 times that rate under load. The other two cells keep 2,000 jobs in the queue, as awa's did.
- A killed replica is the adapter with its producer and its peer: all die at once. Its leases wait until other peers
  may take them.
- The harness's samples are two seconds apart instead of five, because the phases are short.
"""
