"""Every event that a peer can log: its name, its sentence and its fields, in this one file.

Events go to the logger "peers". On a terminal they read as a sentence with its other fields behind
it; elsewhere each is one JSON object a line: time, level, logger, event, message, and the fields.
Durations are seconds.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

_logger: Final = logging.getLogger("peers")
P = ParamSpec("P")


def _event(level: int, sentence: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Makes a signature an event: the function's name is its own, the keywords are its fields."""

    def decorate(signature: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(signature)
        def emit(*_none: P.args, **fields: P.kwargs) -> None:
            if _logger.isEnabledFor(level):
                extra = {"event": signature.__name__, "fields": fields}
                _logger.log(level, sentence, fields, extra=extra)

        return emit

    return decorate


# ------------------------------------------------------------------------------ the life of a peer


@_event(logging.INFO, "joined; ready for work")
def peer_joined(
    *,
    peer_id: UUID,
    host: str,
    pid: int,
    queues: Mapping[str, int],
    kinds: Sequence[str],
    lease_timeout: float,
) -> None:
    """The peer is a member now."""


@_event(logging.ERROR, "the leases are gone (%(reason)s); joining again")
def peer_lost(*, peer_id: UUID, reason: str) -> None:
    """The database says that this peer's leases have expired."""


@_event(logging.ERROR, "no heartbeat for %(seconds_silent).1f s: stopped %(tasks)d running tasks")
def fenced(*, peer_id: UUID, tasks: int, seconds_silent: float) -> None:
    """The peer could not renew its lease, and stopped its handlers before others may take over."""


@_event(logging.INFO, "stopping: %(running)d tasks may run on for %(timeout).0f s")
def draining(*, running: int, timeout: float) -> None:
    """No more claims; what runs may finish."""


@_event(logging.INFO, "left; %(released)d tasks were given back")
def peer_left(*, peer_id: UUID, released: int) -> None:
    """The peer is a member no more."""


@_event(logging.ERROR, "the main loop made no turn for %(seconds).1f s (limit %(limit).1f s)")
def main_loop_stalled(*, seconds: float, limit: float) -> None:
    """The main loop hangs, so the heartbeat stops as well."""


@_event(logging.ERROR, "the database speaks contract version %(theirs)d, this peer %(ours)d")
def contract_changed(*, ours: int, theirs: int) -> None:
    """A migration happened under the peer's feet."""


@_event(logging.WARNING, "lost the database (%(reason)s); trying again in %(retry_in).1f s")
def database_lost(*, reason: str, retry_in: float) -> None:
    """A connection is gone, or cannot be made."""


@_event(logging.INFO, "the database is back after %(seconds).1f s")
def database_back(*, seconds: float) -> None:
    """The database answers again."""


# ------------------------------------------------------------------------------- tasks and workers


@_event(logging.DEBUG, "task %(task_id)d (%(kind)s) completed in %(seconds).3f s")
def task_completed(*, task_id: int, kind: str, attempt: int, seconds: float) -> None:
    """A handler returned; there may be thousands a second."""


@_event(
    logging.WARNING,
    "task %(task_id)d (%(kind)s), attempt %(attempt)d: %(error_type)s: %(error_message)s",
)
def task_failed(
    *, task_id: int, kind: str, attempt: int, error_type: str, error_message: str
) -> None:
    """An attempt failed; whether it is tried again, the database decides."""


@_event(logging.INFO, "task %(task_id)d (%(kind)s) was cancelled: stopping it")
def task_cancelled(*, task_id: int, kind: str, attempt: int) -> None:
    """Somebody cancelled a task that runs here."""


@_event(logging.WARNING, "the outcome of task %(task_id)d (%(kind)s) was not taken: %(verdict)s")
def outcome_refused(*, task_id: int, kind: str, verdict: str) -> None:
    """The lease was gone, or the result too large."""


@_event(logging.WARNING, "task %(task_id)d was reclaimed from a lost peer on host %(lost_host)s")
def reclaimed(*, task_id: int, attempt: int, lost_peer_id: UUID, lost_host: str | None) -> None:
    """A lease was taken back from a peer that stopped sending heartbeats."""


@_event(logging.WARNING, "gave back %(released)d leases whose claim was never answered")
def reconciled(*, released: int) -> None:
    """The answers of claims got lost on the way."""


@_event(logging.INFO, "worker %(worker_pid)d is ready")
def worker_started(*, worker_pid: int, asynchronous: bool) -> None:
    """A worker process has imported the app."""


@_event(
    logging.ERROR,
    "worker %(worker_pid)d died (signal %(exit_signal)s, exit code %(exit_code)s)",
)
def worker_died(
    *, worker_pid: int, exit_signal: str | None, exit_code: int | None, task_ids: Sequence[int]
) -> None:
    """A worker process ended by itself or was killed; another takes its place."""


@_event(
    logging.WARNING, "calling %(kind)s again with %(tasks)d tasks of a batch that ended its worker"
)
def batch_divided(*, kind: str, tasks: int, first_task_id: int) -> None:
    """Which task it was is found out by halving."""


@_event(logging.ERROR, "worker %(worker_pid)d sent garbage (%(error)s): killing it")
def worker_garbled(*, worker_pid: int, error: str) -> None:
    """A worker sent something that is no message: user code wrote into its socket."""


@_event(
    logging.WARNING,
    "stopped task %(task_id)d (%(kind)s) after %(seconds).1f s: the drain is over;"
    " it was given back, and attempt %(attempt)d does not count",
)
def task_stopped(*, task_id: int, kind: str, attempt: int, seconds: float) -> None:
    """A handler outlasted the drain of its peer, and was killed."""


@_event(
    logging.WARNING,
    "no process stands by to kill what handlers started, should this peer be killed (%(reason)s)",
)
def orphan_killer_missing(*, reason: str) -> None:
    """It ended or cannot start; another is started in a second."""


@_event(logging.INFO, "got %(signal)s")
def signal_received(*, signal: str) -> None:
    """Somebody wants the peer to stop."""


@_event(logging.ERROR, "a worker cannot start (%(error)s); trying again in %(retry_in).1f s")
def worker_broken(*, error: str, retry_in: float) -> None:
    """The app cannot be imported."""


# --------------------------------------------------------------------------------------- upkeep


@_event(
    logging.WARNING,
    "%(tasks)d ready tasks of kind %(kind)s in queue %(queue)s: no live peer can run them",
)
def kinds_unrunnable(*, queue: str, kind: str, tasks: int, oldest_ready_at: datetime) -> None:
    """An alarm: a deployment or a subscription is missing."""


@_event(logging.INFO, "deleted %(deleted)d tasks that ended long ago")
def pruned(*, deleted: int) -> None:
    """Old tasks are gone."""


@_event(logging.ERROR, "%(chore)s failed: %(error)s")
def chore_failed(*, chore: str, error: str) -> None:
    """The database refused a chore; it comes round again."""


@_event(logging.WARNING, "%(file)s: %(notice)s")
def migration_notice(*, file: str, notice: str) -> None:
    """The SQL of a migration has something to say."""


# ------------------------------------------------------------------------------------ the forms


class _Text(logging.Formatter):
    """A sentence, and behind it the fields that it doesn't mention."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        fields: dict[str, object] = getattr(record, "fields", {})
        said = str(record.msg)
        rest = [f"{name}={value}" for name, value in fields.items() if f"%({name})" not in said]
        whole = f"{line}  [{' '.join(rest)}]" if rest else line
        # what user code says must not end the line, nor speak to the terminal
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in whole)


class _Json(logging.Formatter):
    """One JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", None),
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


Form: TypeAlias = Literal["auto", "json", "text"]
Level: TypeAlias = Literal["debug", "info", "warning", "error"]


def configure(format: Form = "auto", level: Level = "info") -> None:
    """Sends the log of this process to stderr; that of other libraries from warning on.

    "auto" is text on a terminal, JSON lines elsewhere.
    """
    readable = format == "text" or (format == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if readable else _Json())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _logger.setLevel(level.upper())
