"""What the commands say about limits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from peers.cli import output
from peers.client.limit_records import FOREVER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from peers.cli.rows import Row
    from peers.client.limit_records import LimitRecord


def print_limits(limits: Sequence[LimitRecord], now: datetime, *, any_peer: bool) -> None:
    """Print a table with a row for each limit."""
    output.table(
        ("LIMIT", "OF", "KEY", "ALLOWS", "RUNNING", "WAITING", "NOW", "DECLARED"),
        [
            (
                each.name, place_of(each), each.key or "", limit_in_words(each), each.running,
                each.waiting, now_of(each, now), origin_of(each, any_peer=any_peer),
            )
            for each in limits
        ],
    )  # fmt: skip


def limit_in_words(limit: LimitRecord) -> str:
    """Return what a limit allows, in words."""
    parts = []
    if limit.max_running is not None:
        unit = "running" if limit.weight is None else f"by {limit.weight}"
        parts.append(f"{limit.max_running} {unit}")
    if limit.per is not None:
        parts.append(f"{limit.starts} in {output.span(limit.per)}")
    parts += [word for word in ("fair", "learns") if getattr(limit, word)]
    return ", ".join(parts)


def place_of(limit: LimitRecord) -> str:
    """Return whose tasks it limits."""
    return f"kind {limit.kind}" if limit.queue is None else f"queue {limit.queue}"


def now_of(limit: LimitRecord, now: datetime) -> str:
    """Return whether it is open, and whether it allows less than usual."""
    if limit.shut_until == FOREVER:
        return "shut"
    if limit.shut_until is not None:
        return f"shut for {output.span(limit.shut_until - now)}"
    if limit.most_now != limit.max_running:
        return f"learned: {limit.most_now} running"
    return "open"


def origin_of(limit: LimitRecord, *, any_peer: bool) -> str:
    """Say whether code declares it, and whether it is as the code says."""
    if not limit.declared:
        return "no"
    if any_peer and not limit.declaring_peers:
        return "no longer"
    return "changed by operator" if limit.changed_by_operator else "yes"


def is_unused(limit: LimitRecord, peers: Sequence[Row]) -> bool:
    """Return whether peers run, and none of them can run a task that it limits."""
    live = [peer for peer in peers if peer["alive"]]
    if limit.kind is None:
        return bool(live) and all(limit.queue not in peer["queues"].parsed() for peer in live)
    return bool(live) and all(limit.kind not in peer["kinds"] for peer in live)


def document_of(limit: LimitRecord, *, any_peer: bool) -> dict[str, Any]:
    """Return it as --json prints it."""
    document = dataclasses.asdict(limit)
    document["origin"] = origin_of(limit, any_peer=any_peer)
    document["shut"] = limit.shut_until is not None
    if limit.shut_until == FOREVER:
        document["shut_until"] = None
    return document
