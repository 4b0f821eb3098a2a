"""Every metric: its name, its type, its labels, and what it means."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"


class Metric(NamedTuple):
    """A metric as Prometheus sees it."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


_OF_KIND: Final = ("queue", "kind")

OF_PEER: Final = {
    "completed": Metric(
        "peers_tasks_completed_total", COUNTER, _OF_KIND, "Tasks whose completion was recorded."
    ),
    "failed": Metric(
        "peers_attempts_failed_total", COUNTER, _OF_KIND,
        "Attempts that failed, without cancelled and snoozed ones.",
    ),
    "retried": Metric(
        "peers_tasks_retried_total", COUNTER, _OF_KIND,
        "Failed attempts after which the task is tried again.",
    ),
    "dead": Metric(
        "peers_tasks_dead_total", COUNTER, _OF_KIND, "Tasks that became dead letters."
    ),
    "reclaimed": Metric(
        "peers_tasks_reclaimed_total", COUNTER, _OF_KIND,
        "Attempts of lost peers that this peer took back. Each counts as failed as well.",
    ),
    "refused": Metric(
        "peers_outcomes_refused_total", COUNTER, _OF_KIND,
        "Outcomes that the database refused to record, such as a result that it cannot hold.",
    ),
    "stale": Metric(
        "peers_tasks_stale_total", COUNTER, _OF_KIND,
        "Outcomes that came too late, because the peer had lost the task.",
    ),
    "run": Metric(
        "peers_task_run_seconds", HISTOGRAM, _OF_KIND,
        "How long attempts ran that their handlers ended. Quick tasks count with their average.",
    ),
    "wait": Metric(
        "peers_task_wait_seconds", HISTOGRAM, _OF_KIND,
        "How long tasks waited from the moment they became ready until a peer claimed them.",
    ),
    "fenced": Metric(
        "peers_peers_fenced_total", COUNTER, (),
        "How often the peer killed its own workers because its lease was about to end.",
    ),
}  # fmt: skip
"""What a peer counts itself, by the names of its counts. Add these up over all peers."""

OF_DATABASE: Final = (
    Metric(
        "peers_queue_tasks", GAUGE, ("queue", "state"), "Tasks in each state that has not ended."
    ),
    Metric(
        "peers_queue_oldest_ready_seconds", GAUGE, ("queue",),
        "How long the oldest ready task has waited; 0: none is ready.",
    ),
    Metric("peers_held_children", GAUGE, ("queue",), "Tasks that wait for a dead parent."),
    Metric(
        "peers_dead_letters", GAUGE, _OF_KIND,
        "Dead letters that are neither retried nor discarded.",
    ),
    Metric(
        "peers_limit_full", GAUGE, ("limit",),
        "How many keys of a limit have as many tasks or as much weight as they may; 1: it is shut.",
    ),
    Metric(
        "peers_schedule_late", GAUGE, ("schedule",),
        "1: no run has completed within expect_within, or the schedule is due for over a minute.",
    ),
    Metric(
        "peers_heartbeat_age_seconds", GAUGE, ("peer_id", "host"),
        "Time since the last heartbeat of each peer that has not left and is not lost.",
    ),
    Metric(
        "peers_connections", GAUGE, (), "Connections of peers and their clients to the database."
    ),
    Metric(
        "peers_unrunnable_tasks", GAUGE, _OF_KIND,
        "Ready tasks of a kind that no live peer runs in their queue, up to 1,000 of each kind.",
    ),
    Metric("peers_expired_leases", GAUGE, (), "Running tasks of peers whose lease has ended."),
    Metric(
        "peers_oldest_snapshot_seconds", GAUGE, (),
        "Age of the oldest open transaction that keeps vacuum from removing dead rows.",
    ),
)  # fmt: skip
"""What every peer reads from the database. All of them have the same, so do not add these up."""

ALL: Final = (*OF_PEER.values(), *OF_DATABASE)
