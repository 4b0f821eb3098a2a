"""When the memory of a worker is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest.mock import Mock

from peers.pool.handle import WorkerHandle
from peers.pool.isolation import WorkerRole
from peers.pool.retirement import Limits, Retirement, resident


def a_worker(**traits: object) -> WorkerHandle:
    """Return a worker with these attributes."""
    usual = {"retiring": False, "ready": True, "role": WorkerRole.ORDINARY, "asynchronous": False,
             "tasks_assigned": 0, "allowance": 1}  # fmt: skip
    return Mock(WorkerHandle, **{**usual, **traits})


def test_memory_is_measured_once_a_second() -> None:
    """Only of workers that have had a task: one that starts above the limit must run something."""
    rules = Retirement(Limits(max_memory=1 << 20))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert 0 < resident(child.pid) < 1 << 30
        process = Mock(pid=os.getpid())
        fresh, used = a_worker(process=process), a_worker(process=process, tasks_assigned=1)
        [(found, reason)] = rules.due([fresh, used], 5.0)
        assert found is used
        assert "MiB" in reason
        assert rules.due([used], 5.5) == []
        assert len(rules.due([used], 6.5)) == 1
    assert resident(child.pid) == 0
