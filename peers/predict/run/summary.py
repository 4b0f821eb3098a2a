"""Sum up what a run has done so far: for the progress line, the summary and --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import RunStopped
from peers.predict.models.time_limit import TIMEOUT
from peers.predict.run import failure_queries, queries
from peers.predict.run.queries import CHUNKS, ROWS, Assembly
from peers.predict.spec import Manifest
from peers.predict.tasks import failure_limit
from peers.predict.texts import one_line, row_label

if TYPE_CHECKING:
    from peers.predict.run.database import Connection

_SHOWN_REASONS: Final = 20
_SHOWN_TASKS: Final = 20
_DEAD_ROWS_IN_JSON: Final = 1000
_SHORT: Final = 200
_LONG: Final = 1000
"""The most characters of an error in a line."""
TOO_MANY_DEAD: Final = 5
"""The exit code if the output is complete, but more rows are dead than --max-dead allows."""
_RATE_SECONDS: Final = 30.0
"""The time over which the rate is measured: that of `recent` in the queries."""


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
        trouble = "" if self.trouble is None else f"; trouble: {one_line(self.trouble, _SHORT)}"
        dead = f", {self.dead:,} dead" if self.dead else ""
        rate = f"{self.rows_per_second:,.0f} rows/s"
        return f"{self.handled:,} of {self.rows:,} rows{dead}, {rate}{eta}{trouble}"

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
            f"  task {task['task_id']} is dead: {one_line(_message(task), _LONG)}"
            for task in self.dead_tasks
        ]
        if lines:
            lines.append("Fix the cause, then run the same command to do what is missing.")
        return lines


def summarize(
    connection: Connection, manifest: Manifest, graph: int, *, with_dead: bool = True
) -> Summary | None:
    """Sum up the run of this graph; return None if it has no tasks.

    Without `with_dead` the summary counts dead rows, but does not name them.
    """
    assemblies = queries.assemblies(connection, graph)
    if not assemblies:
        return None
    chunks = queries.counts(connection, graph, CHUNKS)
    isolated = queries.counts(connection, graph, ROWS)
    written = assemblies[-1].written
    dead_tasks = failure_queries.dead_tasks(connection, graph, _SHOWN_TASKS)
    stopped = None if written else failure_limit.stop_reason(manifest)
    state = _state(assemblies[-1], chunks, dead_tasks, is_stopped=stopped is not None)
    dead = failure_queries.count_dead_rows(connection, graph) + int(isolated["cancelled"])
    if written:
        dead = int(written["dead"])
    ended = chunks["rows"] - chunks["isolated"] + isolated["completed"] + dead
    handled = ended + chunks["under_way"]
    predicted = written["predicted"] if written else max(0, ended - dead)
    seconds = _seconds(assemblies, chunks)
    rate = _rate(chunks, handled, seconds) if state == "running" else _ratio(handled, seconds)
    left = manifest.input.rows - handled
    reasons = failure_queries.dead_reasons(connection, graph, _SHOWN_REASONS) if with_dead else []
    letters = failure_queries.dead_rows(connection, graph, _DEAD_ROWS_IN_JSON) if with_dead else []
    trouble = failure_queries.last_failure(connection, graph, manifest.model.ref)
    return Summary(
        run=manifest.run, name=manifest.name, state=state, rows=manifest.input.rows,
        handled=handled, predicted=predicted,
        dead=dead, missing=manifest.input.rows - predicted - dead, batches=chunks["batches"],
        retries=chunks["retries"] + isolated["retries"], seconds=round(seconds, 3),
        rows_per_second=round(rate, 1),
        eta_seconds=round(left / rate, 1) if rate and state == "running" else None,
        trouble=None if written else trouble,
        stopped=stopped, max_dead=failure_limit.allowed_dead_rows(manifest), output=manifest.output,
        dead_reasons=list(map(_dead_reason, reasons)), dead_rows=list(map(_dead_row, letters)),
        dead_tasks=[task for task in dead_tasks if task["error_type"] != RunStopped.__name__],
    )  # fmt: skip


def _state(
    last: Assembly, chunks: dict[str, Any], dead_tasks: Sequence[object], *, is_stopped: bool
) -> str:
    if last.written:
        return "done"
    if last.state == "cancelled" or (chunks["cancelled"] and not chunks["live"]):
        return "cancelled"
    if dead_tasks and not chunks["live"]:
        return "stopped" if is_stopped else "stuck"
    return "running"


def _dead_reason(found: dict[str, Any]) -> DeadReason:
    reason = _timeout_text() if found["reason"] == TIMEOUT else found["reason"]
    return DeadReason(reason, found["rows"], found["row"], found["task_id"])


def _dead_row(letter: dict[str, Any]) -> DeadRow:
    args = letter["args"]
    return DeadRow(args["row"], args["id"], letter["task_id"], _error(letter, args))


def _error(letter: dict[str, Any], args: dict[str, Any]) -> str:
    message = _message(letter)
    if letter["error_type"] == TIMEOUT:
        message = _timeout_text()
    if message.startswith("row "):
        return message
    return f"{row_label(args)}: {message}"


def _timeout_text() -> str:
    return "the model took longer than --timeout allows"


def _message(letter: dict[str, Any]) -> str:
    """Return the error's message, or its type if the message is empty."""
    return str(letter["error_message"]).strip() or str(letter["error_type"])


def _seconds(assemblies: Sequence[Assembly], chunks: dict[str, Any]) -> float:
    """Count until the output was first written; later submissions add rows that were retried."""
    if chunks["started"] is None:
        return 0.0
    ends = [one.finished for one in assemblies if one.written and one.finished]
    # parts that were made again began after that
    end = next((end for end in ends if end > chunks["started"] + chunks["idle"]), chunks["now"])
    return max(0.0, float(end - chunks["started"] - chunks["idle"]))


def _rate(chunks: dict[str, Any], handled: int, seconds: float) -> float:
    if chunks["recent"]:
        rows = chunks["recent"] + chunks["under_way"]
        return float(rows / min(_RATE_SECONDS, max(seconds, 0.001)))
    return _ratio(handled, seconds)


def _ratio(rows: int, seconds: float) -> float:
    return rows / seconds if seconds else 0.0


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
