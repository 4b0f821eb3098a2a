"""The figures of a run: for the progress line, the summary and --json."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final

from peers.predict.texts import one_line

_LONG: Final = 1000
"""The most characters of an error in a line."""
TOO_MANY_DEAD: Final = 5
"""The exit code if the output is complete, but more rows are dead than --max-dead allows."""


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row without a prediction, with its dead letter."""

    row: int
    id: Any
    task_id: int
    error: str


@dataclass(frozen=True, slots=True)
class DeadReason:
    """A reason why rows are dead, how many they are, and the first of them."""

    reason: str
    rows: int
    first_row: int
    first_task_id: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a run.

    `state`: "running"; "stuck" when a chunk or the assembling task is dead, and no chunk can still
    end; "stopped" when too many rows died; "cancelled"; "done". `missing`: neither predicted nor
    dead, 0 in the end. `seconds`: from the first start to the output, by the database's clock,
    without pauses of more than a minute. `eta_seconds`: the remaining time, at the rate of the last
    half minute. `trouble`: why a task that will be retried failed last. `stopped`: why the run is
    being stopped, or was. `max_dead`: how many rows may be dead for exit code 0.
    """

    run: str
    name: str | None
    state: str
    rows: int
    handled: int
    predicted: int
    dead: int
    missing: int
    batches: int
    retries: int
    seconds: float
    rows_per_second: float
    eta_seconds: float | None
    trouble: str | None
    stopped: str | None
    max_dead: int
    output: str
    dead_reasons: list[DeadReason]
    dead_rows: list[DeadRow]
    dead_tasks: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the figures for programs."""
        return asdict(self)

    def exit_code(self) -> int:
        """Return 0 if the run is under way, or done with no more dead rows than allowed."""
        if self.state == "done":
            return TOO_MANY_DEAD if self.dead > self.max_dead else 0
        return 0 if self.state == "running" else 1

    def progress(self) -> str:
        """Return the progress in a line."""
        eta = "" if self.eta_seconds is None else f", about {_span(self.eta_seconds)} to go"
        dead = f", {self.dead:,} dead" if self.dead else ""
        rate = f"{self.rows_per_second:,.0f} rows/s"
        return f"{self.handled:,} of {self.rows:,} rows{dead}, {rate}{eta}"

    def trouble_line(self) -> str:
        """Return why a task that will be retried failed last, in a line."""
        return f"trouble: {one_line(self.trouble or '', _LONG)}"

    def lines(self) -> list[str]:
        """Return the figures for people."""
        name = f"{self.name} ({self.run})" if self.name else self.run
        lines = [
            f"run {name}: {self.state}; {self.predicted:,} of {self.rows:,} rows predicted, "
            f"{self.dead:,} dead, {self.missing:,} missing",
            f"{self.batches:,} batches in {self.seconds:.1f} s: {self.rows_per_second:,.0f} rows/s"
            f"; {self.retries:,} retries",
        ]
        if self.state == "running":
            lines.append(self.progress())
            if self.trouble is not None:
                lines.append(self.trouble_line())
        if self.stopped is not None:
            lines.append(f"{'stopped' if self.state == 'stopped' else 'stopping'}: {self.stopped}")
        lines += [*self._dead_row_lines(), *self._dead_task_lines()]
        if self.state == "done":
            lines.append(f"output: {self.output}")
        return lines

    def _dead_row_lines(self) -> list[str]:
        lines = [
            f"  {_count(each.rows, 'dead row')}: {one_line(each.reason, _LONG)} "
            f"(first: row {each.first_row}, task {each.first_task_id})"
            for each in self.dead_reasons
        ]
        explained = sum(each.rows for each in self.dead_reasons)
        if self.dead_reasons and self.dead > explained:
            lines.append(f"  … and {self.dead - explained:,} more: peers dead list")
        if self.stopped is not None:
            lines.append(
                "Finished work is kept. Fix the cause, then run the same command with "
                "--retry-dead; or raise --stop-after-dead to continue without these rows."
            )
        elif self.dead_reasons:
            lines.append(
                "Fix the cause, then run the same command with --retry-dead to retry these rows. "
                "If the model, the input or an option has changed, add --overwrite."
            )
        return lines

    def _dead_task_lines(self) -> list[str]:
        lines = [
            f"  task {task['task_id']} is dead: {one_line(message_of(task), _LONG)}"
            for task in self.dead_tasks
        ]
        if lines:
            lines.append("Fix the cause, then run the same command to do what is missing.")
        return lines


def message_of(letter: dict[str, Any]) -> str:
    """Return the error's message, or its type if the message is empty."""
    return str(letter["error_message"]).strip() or str(letter["error_type"])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
