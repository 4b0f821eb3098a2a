"""Figures of what a run has done so far: for the progress line, the summary and --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import RunStopped
from peers.predict.kinds import ASSEMBLE
from peers.predict.models.time_limit import TIMEOUT
from peers.predict.run import record
from peers.predict.run.record import CHUNKS, ROWS, Turn
from peers.predict.run.row_tasks import RowTasks
from peers.predict.spec import Manifest
from peers.predict.tasks import failure_limit
from peers.predict.texts import one_line, row_label

if TYPE_CHECKING:
    from peers.predict.run.record import Connection

_SHOWN: Final = 20
_NAMED: Final = 1000
"""Dead rows that --json names; there is a dead letter of each."""
_SHORT: Final = 200
_LONG: Final = 1000
"""Characters of an error in a line."""
TOO_MANY_DEAD: Final = 5
"""Exit code: the output is there, but more rows are dead than --max-dead allows."""
_WINDOW: Final = 30.0
"""Seconds by which the pace is told: those of `recent` in the record."""


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row without a prediction, with its dead letter."""

    row: int
    id: Any
    task_id: int
    error: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A run.

    state: "running"; "stuck" when a chunk or the assembling task is dead, and nothing is under way;
    "stopped" when too many rows died; "cancelled"; "done". `missing`: neither predicted nor dead, 0
    in the end. `seconds`: from the first start to the output, by the database, without times of
    more than a minute in which nothing ran. `eta_seconds`: to go, at the pace of the last half
    minute. `trouble`: why something that will be tried again failed last. `stopped`: why the run
    is being stopped, or was. `max_dead`: how many rows may be dead for exit code 0.
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
    dead_rows: list[DeadRow]
    dead_tasks: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Return the figures for programs."""
        return asdict(self)

    def exit_code(self) -> int:
        """Return 0 for an output that is complete but for the dead rows that are allowed.

        And for a run that is not over.
        """
        if self.state == "done":
            return TOO_MANY_DEAD if self.dead > self.max_dead else 0
        return 0 if self.state == "running" else 1

    def progress(self) -> str:
        """Return how far it is, in a line."""
        eta = "" if self.eta_seconds is None else f", about {_span(self.eta_seconds)} to go"
        trouble = "" if self.trouble is None else f"; trouble: {one_line(self.trouble, _SHORT)}"
        dead = f", {self.dead:,} dead" if self.dead else ""
        pace = f"{self.rows_per_second:,.0f} rows/s"
        return f"{self.handled:,} of {self.rows:,} rows{dead}, {pace}{eta}{trouble}"

    def lines(self) -> list[str]:
        """Return the figures for people."""
        name = f"{self.name} ({self.run})" if self.name else self.run
        said = [
            f"run {name}: {self.state}; {self.predicted:,} of {self.rows:,} rows predicted, "
            f"{self.dead:,} dead, {self.missing:,} missing",
            f"{self.batches:,} batches in {self.seconds:.1f} s: {self.rows_per_second:,.0f} rows/s"
            f"; {self.retries:,} retries",
        ]
        if self.state == "running":
            said.append(self.progress())
        if self.stopped is not None:
            said.append(f"{'stopped' if self.state == 'stopped' else 'stopping'}: {self.stopped}")
        said += self._dead_lines()
        if self.state == "done":
            said.append(f"output: {self.output}")
        return said

    def _dead_lines(self) -> list[str]:
        said = [
            f"  task {dead.task_id}: {one_line(dead.error, _LONG)}"
            for dead in self.dead_rows[:_SHOWN]
        ]
        if self.dead > _SHOWN:
            said.append(f"  … and {self.dead - _SHOWN:,} more: peers dead list")
        if self.stopped is not None:
            said.append(
                "Everything that was done is kept. Fix the cause, then run the same command with "
                "--retry-dead; or raise --stop-after-dead to go on without these rows."
            )
        elif self.dead_rows:
            said.append(
                "Fix the cause, then run the same command with --retry-dead to retry these rows; "
                "if the model, the input or an option has changed, with --overwrite."
            )
        said += [
            f"  task {task['task_id']} is dead: {one_line(_message(task), _LONG)}"
            for task in self.dead_tasks
        ]
        if self.dead_tasks:
            said.append("Fix the cause, then run the same command to do what is missing.")
        return said


def summarize(connection: Connection, manifest: Manifest) -> Summary | None:
    """Return what is known of the run now; None if it has not been submitted."""
    turns = record.turns(connection, manifest.run)
    if not turns:
        return None
    chunks = record.tally(connection, turns, CHUNKS)
    alone = record.tally(connection, turns, ROWS)
    written = turns[-1].written
    dead_tasks = record.dead_letters(connection, turns, (*CHUNKS, ASSEMBLE), _SHOWN)
    stopped = None if written else failure_limit.stop_reason(manifest)
    state = _state(turns[-1], chunks, dead_tasks, is_stopped=stopped is not None)
    own_rows = RowTasks(connection, manifest.run)
    dead_rows = own_rows.letters(_NAMED)
    dead = int(written["dead"]) if written else own_rows.dead() + int(alone["cancelled"])
    ended = chunks["rows"] - chunks["isolated"] + alone["completed"] + dead
    handled = ended + chunks["under_way"]
    predicted = written["predicted"] if written else max(0, ended - dead)
    seconds = _seconds(turns, chunks)
    pace = _pace(chunks, handled, seconds) if state == "running" else _ratio(handled, seconds)
    left = manifest.input.rows - handled
    return Summary(
        run=manifest.run, name=manifest.name, state=state, rows=manifest.input.rows,
        handled=handled, predicted=predicted,
        dead=dead, missing=manifest.input.rows - predicted - dead, batches=chunks["batches"],
        retries=chunks["retries"] + alone["retries"], seconds=round(seconds, 3),
        rows_per_second=round(pace, 1),
        eta_seconds=round(left / pace, 1) if pace and state == "running" else None,
        trouble=None if written else record.trouble(connection, turns, manifest.model.ref),
        stopped=stopped, max_dead=failure_limit.allowed_dead_rows(manifest), output=manifest.output,
        dead_rows=list(map(_dead_row, dead_rows)),
        dead_tasks=[task for task in dead_tasks if task["error_type"] != RunStopped.__name__],
    )  # fmt: skip


def _state(
    last: Turn, chunks: dict[str, Any], dead_tasks: Sequence[object], *, is_stopped: bool
) -> str:
    if last.written:
        return "done"
    if last.state == "cancelled" or (chunks["cancelled"] and not chunks["live"]):
        return "cancelled"
    if dead_tasks and not chunks["live"]:
        return "stopped" if is_stopped else "stuck"
    return "running"


def _dead_row(letter: dict[str, Any]) -> DeadRow:
    args = letter["args"]
    return DeadRow(args["row"], args["id"], letter["task_id"], _error(letter, args))


def _error(letter: dict[str, Any], args: dict[str, Any]) -> str:
    message = _message(letter)
    if letter["error_type"] == TIMEOUT:
        message = "the model took longer than --timeout allows"
    if message.startswith("row "):
        return message
    return f"{row_label(args)}: {message}"


def _message(letter: dict[str, Any]) -> str:
    """Return what was said, or the type of an error that says nothing."""
    return str(letter["error_message"]).strip() or str(letter["error_type"])


def _seconds(turns: Sequence[Turn], chunks: dict[str, Any]) -> float:
    """Count until the output was first written; later turns add rows that were retried."""
    if chunks["started"] is None:
        return 0.0
    ends = [turn.finished for turn in turns if turn.written and turn.finished]
    # parts that were made again began after that
    end = next((end for end in ends if end > chunks["started"] + chunks["idle"]), chunks["now"])
    return max(0.0, float(end - chunks["started"] - chunks["idle"]))


def _pace(chunks: dict[str, Any], handled: int, seconds: float) -> float:
    if chunks["recent"]:
        return float((chunks["recent"] + chunks["under_way"]) / min(_WINDOW, max(seconds, 0.001)))
    return _ratio(handled, seconds)


def _ratio(rows: int, seconds: float) -> float:
    return rows / seconds if seconds else 0.0


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
