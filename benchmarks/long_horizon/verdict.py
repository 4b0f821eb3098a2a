"""Judge a cell by the harness's criteria, and by a count of what became of every job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from benchmarks.long_horizon.cells import Cell

SYSTEM: Final = "peers"


@dataclass(frozen=True)
class Audit:
    """What the database and the handlers say together, after the last job has ended."""

    acknowledged: int
    """Jobs whose INSERT was acknowledged."""
    jobs: int
    completed: int
    calls: int
    """Handler calls that returned; more than jobs if a job was run again."""
    problems: int
    """Rows of peers.check()."""

    @property
    def lost(self) -> int:
        """Jobs that were acknowledged and are gone, or that did not complete."""
        return max(0, self.acknowledged - self.jobs) + self.jobs - self.completed

    @property
    def clean(self) -> bool:
        """Whether each job was recorded as completed once, by a handler that ran."""
        return self.lost == 0 and self.problems == 0 and self.calls >= self.completed > 0


@dataclass(frozen=True)
class Result:
    """The figures of a cell. Rates are medians of jobs completed a second."""

    name: str
    passed: bool
    exit_code: int
    seconds: float
    calm: float | None
    stressed: float | None
    recovered: float | None
    claim_p99: float | None
    """Milliseconds from INSERT to start in the calm phase, median of the samples."""
    recovery_seconds: float | None
    """From the end of the chaos to 90 % of the calm rate, as the harness measures it."""
    audit: Audit


def judge(
    cell: Cell, summary: dict[str, Any] | None, exit_code: int, seconds: float, audit: Audit
) -> Result:
    """Return the cell's result.

    The harness's published table counts a chaos cell as passed if jobs are completed again after
    the chaos, and a pressure cell if the run reaches its end, the adapter's included. Here no job
    may be lost either.
    """
    phases = (summary or {}).get("systems", {}).get(SYSTEM, {}).get("phases", {})
    calm = _median(phases, cell.calm, "completion_rate")
    last = _median(phases, cell.recovery or cell.calm, "completion_rate")
    return Result(
        name=cell.name,
        passed=exit_code == 0 and bool(calm) and bool(last) and audit.clean,
        exit_code=exit_code,
        seconds=seconds,
        calm=calm,
        stressed=_median(phases, cell.stress, "completion_rate"),
        recovered=_median(phases, cell.recovery, "completion_rate"),
        claim_p99=_median(phases, cell.calm, "claim_p99_ms"),
        recovery_seconds=phases.get(cell.recovery, {}).get("chaos_recovery_time_s"),
        audit=audit,
    )


def _median(phases: dict[str, Any], label: str | None, metric: str) -> float | None:
    value = phases.get(label or "", {}).get("metrics", {}).get(metric, {}).get("median")
    return None if value is None else float(value)
