"""Every event that a peer can log: its name, its sentence and its fields, in this one file.

Events go to the logger "peers"; peers.logs.log_output formats them. Durations are in seconds.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

_logger: Final = logging.getLogger("peers")
P = ParamSpec("P")

_NAME: Final = "_peers_event"
_FIELDS: Final = "_peers_fields"
ATTRIBUTES: Final = (_NAME, _FIELDS)
"""Of a log record; user code may add any other ones."""

_DROPPED: Final = "%(lines)d lines of this log were dropped: whatever reads it stood still"

counts: Final[Counter[str]] = Counter()
"""How often each event has happened in this process, logged or not."""


def name_of(record: logging.LogRecord) -> str | None:
    """The name of an event; None of what is none."""
    name: str | None = getattr(record, _NAME, None)
    return name


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of an event, or those that `add_fields` gave the record."""
    fields: dict[str, Any] = getattr(record, _FIELDS, {})
    return fields


def add_fields(record: logging.LogRecord, fields: Mapping[str, object]) -> None:
    """Give a record that is no event the fields of one."""
    record.__dict__.setdefault(_FIELDS, dict(fields))


def dropped_record(lines: int) -> logging.LogRecord:
    """The event `log_dropped`, for the writer of the log itself."""
    extra = {_NAME: log_dropped.__name__, _FIELDS: {"lines": lines}}
    return _logger.makeRecord(
        _logger.name, logging.WARNING, "", 0, _DROPPED, ({"lines": lines},), None, extra=extra
    )


def _event(level: int, sentence: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Makes a signature an event: the function's name is its own, the keywords are its fields.

    `exc_info` is no field: what was raised, whose traceback the log shows.
    """

    def decorate(signature: Callable[P, None]) -> Callable[P, None]:
        @functools.wraps(signature)
        def emit(*_none: P.args, **fields: P.kwargs) -> None:
            counts[signature.__name__] += 1
            if _logger.isEnabledFor(level):
                raised: Any = fields.pop("exc_info", None)
                extra = {_NAME: signature.__name__, _FIELDS: fields}
                _logger.log(level, sentence, fields, extra=extra, exc_info=raised)

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


@_event(logging.INFO, "left; %(released)d leases were still held and were given back")
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


@_event(
    logging.ERROR, "the database refused %(duty)s (%(error)s); trying again in %(retry_in).1f s"
)
def database_refused(*, duty: str, error: str, retry_in: float) -> None:
    """It answers, but will not do this; everything else goes on."""


@_event(
    logging.WARNING, "the heartbeat is not answered (%(reason)s); trying again in %(retry_in).1f s"
)
def heartbeat_lost(*, reason: str, retry_in: float) -> None:
    """The lease is not renewed; told once, and then once a minute."""


@_event(logging.INFO, "the heartbeat is answered again after %(seconds).1f s")
def heartbeat_back(*, seconds: float) -> None:
    """The lease is renewed again."""


@_event(logging.WARNING, "cannot listen (%(reason)s): polling; trying again in %(retry_in).1f s")
def listener_lost(*, reason: str, retry_in: float) -> None:
    """News of work comes by polling only; told once until it works again."""


@_event(logging.ERROR, "the system refused something (%(error)s); going on in %(retry_in).1f s")
def system_refused(*, error: str, retry_in: float, traceback: str) -> None:
    """No descriptor, process, thread or memory was to be had."""


@_event(logging.ERROR, "leaving: %(step)s failed (%(error)s)")
def leave_failed(*, step: str, error: str) -> None:
    """What could not be given back is reclaimed by others after the lease."""


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


@_event(logging.DEBUG, "task %(task_id)d (%(kind)s) was snoozed by its handler: %(reason)s")
def task_snoozed(*, task_id: int, kind: str, reason: str) -> None:
    """A handler gave its slot back, to run later; the attempt does not count."""


@_event(logging.INFO, "task %(task_id)d (%(kind)s) was cancelled: stopping it")
def task_cancelled(*, task_id: int, kind: str, attempt: int) -> None:
    """A task that runs here was cancelled."""


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


@_event(logging.INFO, "killed worker %(worker_pid)d: a task %(reason)s")
def worker_killed(*, worker_pid: int, reason: str, task_ids: Sequence[int]) -> None:
    """The peer itself killed a worker, for the sake of what is told; another takes its place."""


@_event(
    logging.INFO,
    "worker %(worker_pid)d gets no more tasks (%(reason)s); another takes its place",
)
def worker_retired(*, worker_pid: int, reason: str, tasks: int) -> None:
    """A worker ran out of something, or has run for long enough; it finishes what it has begun."""


@_event(
    logging.WARNING,
    "running %(tasks)d tasks in isolation: one of them ended or exhausted their worker",
)
def tasks_isolated(*, tasks: int, first_task_id: int) -> None:
    """Workers of their own find out which task it was; no attempt is used up meanwhile."""


@_event(
    logging.WARNING, "calling %(kind)s again with %(tasks)d tasks of a batch that ended its worker"
)
def batch_bisected(*, kind: str, tasks: int, first_task_id: int) -> None:
    """A batch crashed its worker, and is bisected to find the task that did it."""


@_event(logging.ERROR, "worker %(worker_pid)d sent garbage (%(error)s): killing it")
def worker_message_invalid(*, worker_pid: int, error: str) -> None:
    """A worker sent bytes that are not a message, because user code wrote into its socket."""


@_event(
    logging.WARNING,
    "stopped task %(task_id)d (%(kind)s) after %(seconds).1f s, because the peer ends;"
    " it was given back, and attempt %(attempt)d does not count",
)
def task_stopped(*, task_id: int, kind: str, attempt: int, seconds: float) -> None:
    """A handler was killed when the drain was over, after a second signal, or by a fault."""


@_event(
    logging.WARNING,
    "no process stands by to kill what handlers started, should this peer be killed (%(reason)s)",
)
def orphan_killer_missing(*, reason: str) -> None:
    """It ended or cannot start; another is started in a second."""


@_event(logging.INFO, "received %(signal)s")
def signal_received(*, signal: str) -> None:
    """The peer was told to stop."""


@_event(logging.ERROR, "a worker cannot start (%(error)s); trying again in %(retry_in).1f s")
def worker_start_failed(*, error: str, retry_in: float) -> None:
    """The app cannot be imported, or the machine has no room for another process."""


@_event(
    logging.WARNING,
    "lost fork server %(server_pid)d (%(reason)s): workers import the app themselves until"
    " there is another; in %(retry_in).1f s at the earliest",
)
def fork_server_lost(*, server_pid: int, reason: str, retry_in: float) -> None:
    """The process that has imported the app died, or did not answer; its workers go on."""


@_event(
    logging.WARNING,
    "each worker imports the app itself: %(reason)s; do that in the handlers, or set"
    " PEERS_PRELOAD=off",
)
def app_not_preloaded(*, reason: str) -> None:
    """Importing the app did something that a fork would not have, or would share with others."""


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


@_event(logging.ERROR, "%(job)s failed: %(error)s")
def maintenance_failed(*, job: str, error: str) -> None:
    """The database refused a maintenance job, or was not reachable. The job runs again later."""


@_event(logging.WARNING, "%(file)s: %(notice)s")
def migration_notice(*, file: str, notice: str) -> None:
    """The SQL of a migration has something to say."""


# ---------------------------------------------------------------------------------- the log itself


@_event(
    logging.INFO, "%(completed)d tasks completed, %(failed)d attempts failed in %(seconds).0f s"
)
def tasks_ended(*, completed: int, failed: int, seconds: float) -> None:
    """What the last minute brought: a line for each task is there at debug only."""


@_event(logging.WARNING, _DROPPED)
def log_dropped(*, lines: int) -> None:
    """The log could not be written: whatever reads it stood still, or its disk was full."""


@_event(logging.ERROR, "%(error)s")
def peer_failed(*, error: str, hint: str | None, exc_info: BaseException | None = None) -> None:
    """What ends `peers run` with an exit code above 0, as its last line."""
