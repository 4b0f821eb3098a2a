"""The adapter for the long-horizon harness, driven as the harness drives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.long_horizon import meters
from tests.e2e.harness import DEADLINE, Stage, until

_SHUTDOWN = 5.0
"""Seconds on a busy machine; section 3 of CONTRIBUTING_ADAPTERS.md allows five on its own one."""
_METRICS = {"claim_p50_ms", "claim_p95_ms", "claim_p99_ms", "enqueue_rate", "completion_rate"}
_ALIVE = "select count(*) = %s from peers.peer_status where alive"


@contextmanager
def adapter(stage: Stage, folder: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The adapter with a sample every second and two slots, as the harness starts it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PEERS_")} | {
        "DATABASE_URL": stage.url, "SAMPLE_EVERY_S": "1", "WORKER_COUNT": "2",
        "PRODUCER_PACING": "harness", "PRODUCER_RATE": "100", meters.VARIABLE: str(folder),
    } | variables  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.long_horizon.adapter"], env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def record(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"the adapter ended with {process.wait(DEADLINE)}"
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_the_adapter_keeps_the_contract(stage: Stage, tmp_path: Path) -> None:
    """It says what it is, inserts and completes what the harness asks for, reports each required
    rate and percentile, and is gone with code 0 within five seconds of SIGTERM; nothing is lost.
    """
    with adapter(stage, tmp_path) as process:
        assert record(process)["kind"] == "descriptor"
        assert process.stdin is not None
        process.stdin.write("ENQUEUE 30\nENQUEUE 20\n")
        process.stdin.flush()
        seen: dict[str, float] = {}
        while meters.counts(tmp_path).completed < 50 or not seen.keys() >= _METRICS:
            sample = record(process)
            if sample["value"]:
                seen[sample["metric"]] = sample["value"]
        began = time.monotonic()
        process.terminate()
        assert process.wait(DEADLINE) == 0
        assert time.monotonic() - began < _SHUTDOWN
    assert meters.counts(tmp_path) == meters.Counts(50, 50, 50)
    assert stage.row("select count(*) from peers.task where state = 'completed'")["count"] == 50
    stage.until_true(_ALIVE, 0)


def test_a_killed_adapter_takes_its_peer_along(stage: Stage, tmp_path: Path) -> None:
    """The harness kills the one process that it knows: a peer that lived on would hide the crash.
    What was counted is still there.
    """
    with adapter(stage, tmp_path, PRODUCER_MODE="depth-target", TARGET_DEPTH="20") as process:
        record(process)
        stage.until_true(_ALIVE, 1)
        pid = stage.row("select pid from peers.peer_status")["pid"]
        stage.until_true("select count(*) > 50 from peers.task where state = 'completed'")
        process.send_signal(signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the peer")
    assert meters.counts(tmp_path).completed > 50
