"""What a run has done so far, in figures: the same for the progress, the summary and --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from peers.predict import record
from peers.predict.overrun import SIGNAL
from peers.predict.record import Turn
from peers.predict.spec import Manifest

if TYPE_CHECKING:
    from peers.predict.record import Connection

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row without a prediction, and its dead letter."""

    row: int
    id: Any
    task_id: int
    error: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A run. `seconds`: from the first start to the last end of its tasks, by the database.

    state: "running"; "stuck" when a chunk or the assembling task is dead; "done". `missing` is what
    is neither predicted nor dead, 0 in the end. `eta_seconds`: to go, at the pace so far.
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
    output: str
    dead_rows: list[DeadRow]
    dead_tasks: list[dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The figures for programs."""
        return asdict(self)

    def progress(self) -> str:
        """How far it is, in a line."""
        eta = "" if self.eta_seconds is None else f", about {_span(self.eta_seconds)} to go"
        return f"{self.handled:,} of {self.rows:,} rows, {self.rows_per_second:,.0f} rows/s{eta}"

    def lines(self) -> list[str]:
        """The figures for people."""
        name = f"{self.name} ({self.run})" if self.name else self.run
        said = [
            f"run {name}: {self.state}; {self.predicted:,} of {self.rows:,} rows predicted, "
            f"{self.dead} dead, {self.missing} missing",
            f"{self.batches:,} batches in {self.seconds:.1f} s: {self.rows_per_second:,.0f} rows/s"
            f"; {self.retries} retries",
        ]
        if self.state == "running":
            said.append(self.progress())
        said += [f"  task {dead.task_id}: {dead.error}" for dead in self.dead_rows[:_SHOWN]]
        if len(self.dead_rows) > _SHOWN:
            said.append(f"  … and {len(self.dead_rows) - _SHOWN} more: peers dead list")
        if self.dead_rows:
            said.append(
                "Mend them and `peers dead retry ID`; the same command then writes the output anew."
            )
        said += [f"  task {t['task_id']} is dead: {t['error_message']}" for t in self.dead_tasks]
        if self.dead_tasks:
            said.append("When that is mended, the same command goes on with what is missing.")
        if self.state == "done":
            said.append(f"output: {self.output}")
        return said


def summarize(connection: Connection, manifest: Manifest) -> Summary | None:
    """What is known of the run now; None when it has not been submitted."""
    turns = record.turns(connection, manifest.run)
    if not turns:
        return None
    chunks = record.tally(connection, turns[0].id)
    alone = [record.tally(connection, turn.id) for turn in turns[1:]]
    last = turns[-1]
    written = last.written
    dead_tasks = record.dead_letters(
        connection, [*chunks["dead"], *(turn.id for turn in turns if turn.state == "dead")]
    )
    suspects = int(chunks["suspects"])
    dead_rows = _dead_rows(connection, written)
    ended_alone = alone[-1]["ended"] if alone else 0
    ended = chunks["rows"] - suspects + ended_alone
    handled = ended + chunks["under_way"]
    seconds = _seconds([chunks, *alone], last, running=written is None)
    predicted = written["predicted"] if written else max(0, ended - len(dead_rows))
    dead = int(written["dead"]) if written else 0
    state = _state(last, dead_tasks, written)
    rate = handled / seconds if seconds else 0.0
    left = manifest.input.rows - handled
    return Summary(
        run=manifest.run, name=manifest.name, state=state,
        rows=manifest.input.rows, handled=handled, predicted=predicted,
        dead=dead, missing=manifest.input.rows - predicted - dead, batches=chunks["batches"],
        retries=chunks["retries"] + sum(one["retries"] for one in alone),
        seconds=round(seconds, 3), rows_per_second=round(rate, 1),
        eta_seconds=round(left / rate, 1) if rate and state == "running" else None,
        output=manifest.output, dead_rows=dead_rows, dead_tasks=dead_tasks,
    )  # fmt: skip


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _state(last: Turn, dead_tasks: Sequence[object], written: object) -> str:
    if written:
        return "done"
    if last.state == "cancelled":
        return "cancelled"
    return "stuck" if dead_tasks else "running"


def _dead_rows(connection: Connection, written: dict[str, Any] | None) -> list[DeadRow]:
    if not written:
        return []
    named = {task_id: (row, id_) for task_id, row, id_ in written["dead_rows"]}
    letters = {one["task_id"]: one for one in record.dead_letters(connection, list(named))}
    return [
        DeadRow(row, id_, task_id, _error(letters.get(task_id), row, id_))
        for task_id, (row, id_) in named.items()
    ]


def _error(letter: dict[str, Any] | None, row: int, id_: object) -> str:
    if letter is None:
        return f"row {row}: it was retried, cancelled or discarded since"
    message = str(letter["error_message"])
    if letter["exit_signal"] == SIGNAL.name:
        message += ": the model took longer than --timeout says"
    if message.startswith("row "):
        return message
    of = f"row {row}" + ("" if id_ is None else f" (id {id_!r})")
    return f"{of} of {letter['args']['input']}: {message}"


def _seconds(tallies: Sequence[dict[str, Any]], last: Turn, *, running: bool) -> float:
    started = [one["started"] for one in tallies if one["started"] is not None]
    if not started:
        return 0.0
    ends = [one["finished"] for one in tallies if one["finished"] is not None]
    end = tallies[0]["now"] if running else max([*ends, last.finished or 0.0])
    return max(0.0, float(end) - float(min(started)))
