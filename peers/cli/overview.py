"""What `peers status` and `peers top` read: parts, each within a limit of time.

A part that fails leaves the others readable: at 3 a.m. the database may be slow.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import psycopg

from peers.cli import dead_queries, queries, queue_queries
from peers.cli.database import perform
from peers.client import limit_operations, operations
from peers.database import functions
from peers.database.connection import is_connection_lost
from peers.errors import NotPermitted, PeersError
from peers.spans import format_span

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from peers.cli.rows import Row
    from peers.database.connection import Connection

    Part: TypeAlias = Callable[[Connection], Any]
    """Reads a part of the overview."""

WINDOW: Final = timedelta(minutes=5)
"""The throughput is an average over this time."""
RUNNING_SHOWN: Final = 50
_PAUSED_MAX: Final = 1000


class Reading(NamedTuple):
    """A part as it was read, or why it could not be read."""

    found: Any
    """None if it could not be read."""
    problem: str | None
    seconds: float
    """How long the database took."""
    at: float
    """When it was read (monotonic)."""
    is_denied: bool = False
    """The role may not read it."""


def read(connection: Connection, part: Part, timeout: float) -> Reading:
    """Read a part in a transaction that takes at most `timeout` seconds and one processor.

    Raises the error if the connection is lost.
    """
    began = time.monotonic()
    found, problem, is_denied = None, None, False
    try:
        with connection.transaction():
            connection.execute(_BOUNDS, [f"{timeout * 1000:.0f}"])
            found = part(connection)
    except psycopg.errors.QueryCanceled:
        problem = f"the database took longer than {format_span(timeout)}"
    except (psycopg.Error, PeersError) as error:
        if is_connection_lost(error):
            raise
        problem = str(error).strip().split("\n")[0]
        is_denied = isinstance(error, NotPermitted | psycopg.errors.InsufficientPrivilege)
    ended = time.monotonic()
    return Reading(found, problem, ended - began, ended, is_denied)


_BOUNDS: Final = """
    select set_config('statement_timeout', %s, true),
           set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true)
"""


def _unrunnable(connection: Connection) -> list[Row]:
    return [kind._asdict() for kind in functions.unrunnable(connection)]


def _paused_graphs(connection: Connection) -> list[Row]:
    """Return the paused graphs that have unfinished tasks."""
    return [
        {"graph_id": graph.id, "name": graph.name, "tasks": graph.tasks, "ready": graph.ready}
        for graph in perform(connection, operations.find_graphs(paused=True, limit=_PAUSED_MAX))
        if graph.finished_at is None and graph.tasks
    ]


PARTS: Final[Mapping[str, Part]] = {
    "time": queries.now,
    "queues": queue_queries.queues,
    "throughput": lambda connection: queue_queries.throughput(connection, WINDOW),
    "last_hour": lambda connection: queue_queries.throughput(connection, timedelta(hours=1)),
    "oldest_ready": queue_queries.oldest_ready,
    "peers": queries.peers,
    "running": lambda connection: queries.running(connection, RUNNING_SHOWN),
    "dead_causes": dead_queries.newest_causes,
    "unrunnable": _unrunnable,
    "paused_graphs": _paused_graphs,
    "alerts": queries.alerts,
    "schedules": queries.schedule_counts,
    "limits": lambda connection: perform(connection, limit_operations.find_limits()),
}
"""The name of each part, and how it is read."""

NOTHING: Final[Mapping[str, Any]] = {
    **dict.fromkeys(PARTS, ()),
    "time": None,
    "schedules": {"active": 0, "failing": 0},
}
"""What a part counts as that could not be read."""


COUNTS: Final = ("ready", "scheduled", "running", "blocked", "dead")
_IDLE: Final[Mapping[str, Any]] = {
    **dict.fromkeys((*COUNTS, "ready_in_paused_graphs"), 0),
    "paused": False,
    "is_estimate": False,
}


def queue_rows(found: Mapping[str, Any], unread: Container[str] = ()) -> list[Row]:
    """Return a row for each queue with tasks, or with outcomes within the last hour.

    A value is None if its part was not read.
    """
    no_rate = None if "throughput" in unread else 0.0
    no_count = None if "last_hour" in unread else 0
    recent = {row["queue"]: row for row in found["last_hour"] if row["completed"] or row["failed"]}
    rates = {row["queue"]: row for row in found["throughput"]}
    waits = {row["queue"]: row["waits_seconds"] for row in found["oldest_ready"]}
    known = {row["queue"]: row for row in found["queues"]}
    return [
        {
            "queue": queue,
            **known.get(queue, _IDLE),
            "oldest_ready_seconds": waits.get(queue),
            "completed_per_second": rates.get(queue, {}).get("completed_per_second", no_rate),
            "failed_per_second": rates.get(queue, {}).get("failed_per_second", no_rate),
            "completed_last_hour": recent.get(queue, {}).get("completed", no_count),
            "failed_last_hour": recent.get(queue, {}).get("failed", no_count),
        }
        for queue in sorted(known.keys() | recent.keys())
    ]


def without_throughput(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts without those that are columns of the queues."""
    return {part: found[part] for part in found if part not in ("throughput", "last_hour")}
