"""Events of worker processes and of the processes that start and clean up after them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from peers.events.record import event

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


@event(logging.INFO, "worker %(worker_pid)d is ready")
def worker_started(*, worker_pid: int, asynchronous: bool) -> None:
    """Report that a worker process has imported the app."""


@event(logging.ERROR, "worker %(worker_pid)d died: it %(reason)s; another replaces it")
def worker_died(
    *, worker_pid: int, reason: str, exit_signal: str | None, exit_code: int | None,
    task_ids: Sequence[int], kinds: Sequence[str], tokens: Sequence[UUID],
) -> None:  # fmt: skip
    """Report that a worker ended by itself or was killed from outside, perhaps for its memory."""


@event(logging.INFO, "killed worker %(worker_pid)d: a task %(reason)s; starting another")
def worker_killed(
    *, worker_pid: int, reason: str, task_ids: Sequence[int], kinds: Sequence[str],
    tokens: Sequence[UUID],
) -> None:  # fmt: skip
    """Report that the peer itself killed a worker, for instance after a task's timeout."""


@event(
    logging.INFO,
    "worker %(worker_pid)d gets no more tasks (%(reason)s); it finishes its tasks, and another"
    " replaces it",
)
def worker_retired(*, worker_pid: int, reason: str, tasks: int) -> None:
    """Report that a worker has reached a limit or run out of something."""


@event(logging.ERROR, "worker %(worker_pid)d sent an invalid message (%(error)s): killing it")
def worker_message_invalid(*, worker_pid: int, error: str) -> None:
    """Report that user code has probably written into the worker's socket. Check the handlers."""


@event(
    logging.ERROR,
    "a worker cannot start (%(error)s): no tasks run in its slot; trying again in %(retry_in).1f s",
)
def worker_start_failed(*, error: str, retry_in: float) -> None:
    """Report that the app cannot be imported, or the system refuses to start another process."""


@event(
    logging.WARNING,
    "lost fork server %(server_pid)d (%(reason)s): workers import the app themselves until there is"
    " another, in %(retry_in).1f s at the earliest",
)
def fork_server_lost(*, server_pid: int, reason: str, retry_in: float) -> None:
    """Report that the process that has imported the app died or hangs. Its workers go on."""


@event(
    logging.WARNING,
    "each worker imports the app itself: %(reason)s; do that in the handlers, or set"
    " PEERS_PRELOAD=off",
)
def app_not_preloaded(*, reason: str) -> None:
    """Report that importing the app did something that does not survive a fork."""


@event(
    logging.WARNING,
    "the process that cleans up after handlers if this peer is killed has ended (%(reason)s);"
    " starting another",
)
def orphan_killer_missing(*, reason: str) -> None:
    """Report that processes of handlers would outlive a killed peer until there is another."""
