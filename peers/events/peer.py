"""Events of a peer: its life, its heartbeat and its database."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from peers.events.record import event

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID


@event(logging.INFO, "joined the peers of this database; ready for tasks")
def peer_joined(
    *,
    peer_id: UUID,
    host: str,
    pid: int,
    queues: Mapping[str, int],
    kinds: Sequence[str],
    lease_timeout: float,
) -> None:
    """Report that the peer claims tasks from now on. There is nothing to do."""


@event(
    logging.INFO,
    "draining: claiming no more tasks; %(running)d running tasks have %(timeout).0f s to finish",
)
def peer_draining(*, running: int, timeout: float) -> None:
    """Report that the peer stops, after a signal or a migration. A second signal stops it now."""


@event(
    logging.INFO,
    "left the peers of this database; tasks released at the very end: %(released)d",
)
def peer_left(*, peer_id: UUID, released: int) -> None:
    """Report that the peer has shut down. Other peers can run the released tasks at once."""


@event(logging.ERROR, "%(error)s")
def peer_failed(*, error: str, hint: str | None, exc_info: BaseException | None = None) -> None:
    """Report why `peers run` ends with an exit code above 0. `hint` says what to do."""


@event(logging.INFO, "received %(signal)s")
def signal_received(*, signal: str) -> None:
    """Report that a signal has asked the peer to stop."""


@event(
    logging.ERROR,
    "lost its leases (%(reason)s): stopped its tasks, which may run on other peers; joining again",
)
def peer_lost(*, peer_id: UUID, reason: str) -> None:
    """Report that the leases have expired. If it happens often, raise PEERS_LEASE_TIMEOUT."""


@event(
    logging.ERROR,
    "no heartbeat for %(seconds_silent).1f s: killed the workers of %(tasks)d running tasks before"
    " other peers reclaim these; continuing when the database replies",
)
def peer_fenced(*, peer_id: UUID, tasks: int, seconds_silent: float) -> None:
    """Report that the peer could not renew its lease. Check the database and the network."""


@event(
    logging.WARNING,
    "a heartbeat failed (%(reason)s): trying again in %(retry_in).1f s, and killing the workers if"
    " the lease nearly expires",
)
def heartbeat_failed(*, reason: str, retry_in: float) -> None:
    """Report that the lease is not renewed: once, and then once a minute. Check the database."""


@event(logging.INFO, "heartbeats succeed again after %(seconds).1f s")
def heartbeat_recovered(*, seconds: float) -> None:
    """Report that the lease is renewed again."""


@event(
    logging.ERROR,
    "the main loop has not moved for %(seconds).1f s (limit %(limit).1f s): sending no heartbeats"
    " until it does",
)
def main_loop_stalled(*, seconds: float, limit: float) -> None:
    """Report that the main loop is stuck. Other peers reclaim its tasks when the lease expires."""


@event(
    logging.ERROR,
    "a migration changed the contract version to %(theirs)d, and this release has %(ours)d:"
    " draining and ending; install the matching release on this host",
)
def contract_changed(*, ours: int, theirs: int) -> None:
    """Report that this release cannot work with the database any more. systemd starts the next."""


@event(
    logging.ERROR,
    "the operating system refused something (%(error)s): continuing in %(retry_in).1f s; check its"
    " limits on open files, processes and memory",
)
def system_error(*, error: str, retry_in: float, traceback: str) -> None:
    """Report that there was no file descriptor, process, thread or memory. Running tasks go on."""


@event(
    logging.ERROR,
    "shutdown step %(step)s failed (%(error)s): other peers reclaim tasks that were not released"
    " when the lease expires",
)
def shutdown_step_failed(*, step: str, error: str) -> None:
    """Report that the shutdown is incomplete. There is nothing to do: the lease expires."""


# ------------------------------------------------------------------------------- its database


@event(logging.INFO, "serving /metrics, /healthz and /readyz on http://%(address)s")
def metrics_served(*, address: str) -> None:
    """Report that PEERS_METRICS_LISTEN is set."""


@event(logging.WARNING, "the database did not take the metrics (%(reason)s): trying again")
def metrics_not_reported(*, reason: str) -> None:
    """Report that counts wait in the peer. It is logged at most once a minute."""


@event(
    logging.WARNING,
    "lost the database (%(reason)s): running tasks go on, no new ones are claimed; reconnecting in"
    " %(retry_in).1f s",
)
def database_lost(*, reason: str, retry_in: float) -> None:
    """Report that a connection broke or cannot be made. Check the database and the network."""


@event(
    logging.WARNING,
    "waiting to start: the database is not reachable (%(reason)s); trying again in"
    " %(retry_in).1f s",
)
def database_unreachable(*, reason: str, retry_in: float) -> None:
    """Report that a peer that starts lost the database or does not reach it. Check the database."""


@event(logging.WARNING, "waiting to start: %(reason)s Trying again in %(retry_in).1f s")
def no_connection_free(*, reason: str, retry_in: float) -> None:
    """Report that a peer that starts finds no free connection. It starts when there is one."""


@event(logging.INFO, "reconnected to the database after %(seconds).1f s")
def database_reconnected(*, seconds: float) -> None:
    """Report that the database accepts connections again."""


@event(
    logging.ERROR,
    "the database refused %(job)s (%(error)s): trying again in %(retry_in).1f s; the rest works",
)
def database_refused(*, job: str, error: str, retry_in: float) -> None:
    """Report that one job fails while the database is reachable. The error names the cause."""


@event(
    logging.WARNING,
    "cannot listen for notifications (%(reason)s): polling for tasks, so they start later; trying"
    " again in %(retry_in).1f s",
)
def listener_failed(*, reason: str, retry_in: float) -> None:
    """Report that new tasks are found by polling only. It is logged once until LISTEN works."""
