"""The tables that `peers status` and `peers top` show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from peers.cli.output import Right, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peers.cli.rows import Row

_SHORT_ID: Final = 8
_TEN: Final = 10
_ROUNDED_FROM: Final = 10_000
_THREE_DIGITS: Final = 100
_UNITS: Final = (("k", 10**3), ("M", 10**6), ("G", 10**9), ("T", 10**12), ("", 10**99))


class Table(NamedTuple):
    """The headings and rows of a table; columns in `whole` are never shortened."""

    headings: tuple[str, ...]
    rows: list[tuple[object, ...]]
    whole: tuple[str, ...] = ()


def queues_table(queues: Sequence[Row], *, short: bool = False) -> Table:
    """Return a row for each queue; a short table rounds large numbers and leaves out COMPLETED."""

    def number(value: int) -> object:
        return Right(rounded(value)) if short else value

    rows: list[tuple[object, ...]] = []
    for queue in queues:
        about = "~" if queue["is_estimate"] else ""
        waiting = [
            Right(f"~{rounded(queue[key])}") if about and queue[key] else number(queue[key])
            for key in ("ready", "scheduled")
        ]
        wait = queue["oldest_ready_seconds"]
        rows.append(
            (
                queue["queue"],
                *waiting,
                *(number(queue[key]) for key in ("running", "blocked", "dead")),
                rate(queue["completed_per_second"]),
                rate(queue["failed_per_second"]),
                *(() if short else (_or_dots(queue["completed_last_hour"]),)),
                span(wait) if wait else "",
                "paused" if queue["paused"] else "",
            )
        )
    return Table(
        (
            "QUEUE", "READY", "SCHED" if short else "SCHEDULED", "RUNNING", "BLOCKED", "DEAD",
            "DONE/S", "FAIL/S", *(() if short else ("COMPLETED",)), "OLDEST", "",
        ),
        rows,
    )  # fmt: skip


def peers_table(peers: Sequence[Row]) -> Table:
    """Return a row for each peer."""
    return Table(
        ("PEER", "STATE", "HOST", "PID", "RUNNING", "HEARTBEAT", "UP", "QUEUES", "KINDS"),
        [
            (
                str(peer["peer_id"])[:_SHORT_ID],
                "alive" if peer["alive"] else "lost",
                peer["host"],
                peer["pid"],
                peer["running"],
                f"{span(peer['last_heartbeat_ago_seconds'])} ago",
                span(peer["up_seconds"]),
                ",".join(
                    f"{name}={slots}" for name, slots in sorted(peer["queues"].parsed().items())
                ),
                len(peer["kinds"]),
            )
            for peer in peers
        ],
    )


def running_table(tasks: Sequence[Row]) -> Table:
    """Return a row for each running task."""
    return Table(
        ("TASK", "KIND", "QUEUE", "FOR", "ATTEMPT", "PROGRESS", "PEER", "HOST"),
        [
            (
                task["task_id"],
                task["kind"],
                task["queue"],
                span(task["for_seconds"]),
                f"{task['attempt']}/{task['max_attempts']}",
                _progress(task),
                str(task["peer_id"])[:_SHORT_ID],
                task["host"],
            )
            for task in tasks
        ],
    )


def _progress(task: Row) -> str:
    if task["cancel_requested"]:
        return "cancelling"
    done, total = task["progress_done"], task["progress_total"]
    return "" if done is None else f"{done}" if total is None else f"{done}/{total}"


def causes_table(causes: Sequence[Row]) -> Table:
    """Return a row for each cause of dead letters."""
    return Table(
        ("DEAD", "KIND", "ERROR", "RAISED IN", "NEWEST", "EXAMPLE"),
        [
            (
                cause["tasks"],
                cause["kind"],
                cause["error_type"] or "",
                cause["frame"] or "",
                f"{span(cause['newest_ago_seconds'])} ago",
                cause["example_id"],
            )
            for cause in causes
        ],
    )


def rounded(number: int) -> str:
    """Return a number in at most six characters: 9,999, 12.3k, 456k, 1.2M."""
    if number < _ROUNDED_FROM:
        return f"{number:,}"
    unit, size = next((unit, size) for unit, size in _UNITS if number < 999.5 * size)
    share = number / size
    return f"{share:.1f}{unit}" if round(share, 1) < _THREE_DIGITS else f"{share:.0f}{unit}"


def _or_dots(number: int | None) -> object:
    return Right("…") if number is None else number


def rate(per_second: float | None) -> Right:
    """Return a rate that is aligned to the right: 0, 0.03, 1.2, 345; … if it is not known."""
    if per_second is None:
        return Right("…")
    if not per_second:
        return Right("0")
    if per_second >= _TEN:
        return Right(rounded(round(per_second)))
    return Right(f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"[:6])
