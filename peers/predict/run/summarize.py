"""Sum up what a run has done so far, from its tasks in the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import RunStopped
from peers.predict.models.time_limit import TIMEOUT
from peers.predict.run import failure_queries, queries
from peers.predict.run.queries import CHUNKS, ROWS, Assembly
from peers.predict.run.summary import DeadReason, DeadRow, Summary, message_of
from peers.predict.spec import Manifest
from peers.predict.tasks import failure_limit
from peers.predict.texts import row_label

if TYPE_CHECKING:
    from peers.predict.run.database import Connection

_SHOWN_REASONS: Final = 20
_SHOWN_TASKS: Final = 20
_DEAD_ROWS_IN_JSON: Final = 1000
_RATE_SECONDS: Final = 30.0
"""The time over which the rate is measured: that of `recent` in the queries."""


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
    message = message_of(letter)
    if letter["error_type"] == TIMEOUT:
        message = _timeout_text()
    if message.startswith("row "):
        return message
    return f"{row_label(args)}: {message}"


def _timeout_text() -> str:
    return "the model took longer than --timeout allows"


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
