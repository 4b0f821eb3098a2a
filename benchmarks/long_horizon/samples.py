"""The lines that the adapter prints: one JSON object for each metric of a sample."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from benchmarks.long_horizon import histogram
from benchmarks.long_horizon.meters import Counts

SYSTEM: Final = "peers"
_WINDOW: Final = 30.0
"""Seconds over which the contract wants its percentiles."""
_SHARES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Reading:
    """All counters at one moment."""

    seconds: float
    """on the monotonic clock"""
    counts: Counts
    claim: int
    end_to_end: int


class Window:
    """The readings of the last 30 seconds."""

    def __init__(self, first: Reading) -> None:
        self._readings = deque([first])

    def add(self, reading: Reading) -> dict[str, float]:
        """Return the rates since the last reading and the percentiles of the window."""
        last = self._readings[-1]
        self._readings.append(reading)
        while reading.seconds - self._readings[1].seconds >= _WINDOW:
            self._readings.popleft()
        oldest = self._readings[0]
        passed = max(reading.seconds - last.seconds, 1e-3)
        return {
            "enqueue_rate": (reading.counts.enqueued - last.counts.enqueued) / passed,
            "completion_rate": (reading.counts.completed - last.counts.completed) / passed,
            **_percentiles("claim", reading.claim - oldest.claim),
            **_percentiles("end_to_end", reading.end_to_end - oldest.end_to_end),
        }


def _percentiles(name: str, histogram_sum: int) -> dict[str, float]:
    found = histogram.percentiles(histogram_sum, _SHARES.values())
    return {
        f"{name}_{share}_ms": round(milliseconds, 3)
        for share, milliseconds in zip(_SHARES, found, strict=True)
    }


def lines(
    metrics: Mapping[str, float], instance: int, seconds: float, sample_seconds: int
) -> Iterator[str]:
    """Yield a line for each metric. `seconds` is the time since 1970."""
    moment = timestamp(seconds)
    for metric, value in metrics.items():
        yield json.dumps({
            "t": moment, "system": SYSTEM, "kind": "adapter", "subject_kind": "adapter",
            "subject": "", "metric": metric, "value": value,
            "window_s": _window(metric, sample_seconds), "instance_id": instance,
        })  # fmt: skip


def _window(metric: str, sample_seconds: int) -> float:
    if metric.endswith("_ms"):
        return _WINDOW
    return float(sample_seconds) if metric in ("enqueue_rate", "completion_rate") else 0.0


def descriptor(
    manifest: Mapping[str, Any], version: str, schema_version: str, instance: int, seconds: float
) -> str:
    """Return the first line, which the harness compares with adapter.json."""
    return json.dumps({
        "kind": "descriptor", "system": SYSTEM, "version": version,
        "event_tables": manifest["event_tables"], "event_indexes": manifest["event_indexes"],
        "extensions": manifest["extensions"], "schema_version": schema_version,
        "db_name": manifest["db_name"], "started_at": timestamp(seconds), "instance_id": instance,
    })  # fmt: skip


def timestamp(seconds: float) -> str:
    """Return a time since 1970 in the form of the harness, with milliseconds."""
    moment = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return moment.replace("+00:00", "Z")


def next_tick(seconds: float, every: int) -> float:
    """Return the next multiple of `every`, so that the samples of all systems line up."""
    return (seconds // every + 1) * every
