"""Events of tasks: their outcomes, their claims, and what stops them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from peers.events.record import event

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


@event(logging.DEBUG, "task %(task_id)d (%(kind)s) completed in %(seconds).3f s")
def task_completed(*, task_id: int, kind: str, attempt: int, token: UUID, seconds: float) -> None:
    """Report that a handler returned. There may be thousands a second."""


@event(
    logging.WARNING,
    "task %(task_id)d (%(kind)s) failed in attempt %(attempt)d: %(error_type)s: %(error_message)s",
)
def task_failed(
    *, task_id: int, kind: str, attempt: int, token: UUID, error_type: str, error_message: str
) -> None:
    """Report a failed attempt. `peers explain ID` says whether the task is retried or dead."""


@event(logging.DEBUG, "task %(task_id)d (%(kind)s) was snoozed by its handler: %(reason)s")
def task_snoozed(*, task_id: int, kind: str, attempt: int, token: UUID, reason: str) -> None:
    """Report that a handler released its task to run later. The attempt does not count."""


@event(logging.INFO, "task %(task_id)d (%(kind)s) was cancelled: stopping its handler")
def task_cancelled(*, task_id: int, kind: str, attempt: int, token: UUID) -> None:
    """Report that a task of this peer was cancelled. The handler has PEERS_CANCEL_GRACE to stop."""


@event(
    logging.WARNING,
    "stopped task %(task_id)d (%(kind)s) after %(seconds).1f s, because the peer ends: released it,"
    " and attempt %(attempt)d does not count",
)
def task_stopped(*, task_id: int, kind: str, attempt: int, token: UUID, seconds: float) -> None:
    """Report that a handler was killed at the end of the drain. See PEERS_DRAIN_TIMEOUT."""


@event(
    logging.WARNING,
    "the outcome of task %(task_id)d (%(kind)s) was not recorded: %(verdict)s",
)
def outcome_refused(*, task_id: int, kind: str, attempt: int, token: UUID, verdict: str) -> None:
    """Report that the database refused an outcome; "stale" means that the lease was lost.

    A refused result is recorded as a failed attempt, or tried again if the error may pass.
    """


@event(
    logging.WARNING,
    "reclaimed task %(task_id)d (%(kind)s) from a lost peer on host %(lost_host)s",
)
def task_reclaimed(
    *, task_id: int, kind: str, attempt: int, token: UUID, lost_peer_id: UUID, lost_host: str | None
) -> None:
    """Report a task whose peer was killed or stopped sending heartbeats. Check that host."""


@event(
    logging.WARNING,
    "released %(released)d tasks of a lost peer on host %(lost_host)s, which it had not started",
)
def unstarted_tasks_released(*, released: int, lost_peer_id: UUID, lost_host: str | None) -> None:
    """Report tasks that a killed peer had only claimed. These attempts do not count."""


@event(
    logging.WARNING,
    "released %(released)d tasks that this peer had claimed without knowing it: a reply was lost",
)
def leases_reconciled(*, released: int) -> None:
    """Report that replies to claims were lost in an outage. The tasks run as usual."""


@event(
    logging.WARNING,
    "running %(tasks)d tasks in isolation, because one of them ended or exhausted its worker",
)
def tasks_isolated(*, tasks: int, first_task_id: int, kind: str, token: UUID) -> None:
    """Report that tasks run in workers of their own to find that one. No attempt counts so far.

    `kind` and `token` are those of the first task.
    """


@event(
    logging.WARNING,
    "calling %(kind)s again with %(tasks)d tasks of a batch that ended its worker",
)
def batch_bisected(*, kind: str, tasks: int, first_task_id: int, token: UUID) -> None:
    """Report that a batch is bisected to find the task that ended its worker."""


@event(
    logging.INFO, "%(completed)d tasks completed and %(failed)d attempts failed in %(seconds).0f s"
)
def tasks_ended(*, completed: int, failed: int, seconds: float) -> None:
    """Report the work of the last minute. There is a line for each task at debug only."""


@event(
    logging.WARNING,
    "the log of task %(task_id)d (%(kind)s), attempt %(attempt)d, was not stored: %(reason)s",
)
def task_log_lost(*, task_id: int, kind: str, attempt: int, token: UUID, reason: str) -> None:
    """Report a log of keep_log that is missing in peers.task_log. The outcome is recorded."""


# ---------------------------------------------------------------------------------- maintenance


@event(
    logging.WARNING,
    "no live peer can run %(tasks)d ready tasks of kind %(kind)s in queue %(queue)s: start a peer"
    " that serves this queue and whose app has this kind",
)
def tasks_unrunnable(*, queue: str, kind: str, tasks: int, oldest_ready_at: datetime) -> None:
    """Report tasks that wait for a deployment or a setting (PEERS_QUEUES). They are kept."""


@event(logging.INFO, "deleted %(deleted)d tasks that ended long ago")
def tasks_pruned(*, deleted: int) -> None:
    """Report that tasks were deleted by PEERS_KEEP_COMPLETED or PEERS_KEEP_DEAD."""


@event(logging.ERROR, "maintenance job %(job)s failed (%(error)s): it runs again later")
def maintenance_failed(*, job: str, error: str) -> None:
    """Report that the database refused a job or was not reachable. Other peers run it as well."""


@event(logging.WARNING, "%(file)s: %(notice)s")
def migration_notice(*, file: str, notice: str) -> None:
    """Report a notice that the SQL of a migration has raised."""


@event(logging.DEBUG, "replied to an operator what task %(task_id)d does: %(phase)s")
def task_peeked(
    *, task_id: int, kind: str | None, attempt: int | None, token: UUID, phase: str
) -> None:
    """Report that this peer has replied to `peers peek`."""


@event(logging.WARNING, "cannot reply to an operator what task %(task_id)d does: %(error)s")
def peek_failed(
    *, task_id: int, kind: str | None, attempt: int | None, token: UUID, error: str
) -> None:
    """Report that this peer could not record its reply to `peers peek`."""
