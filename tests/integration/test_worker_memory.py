"""When the memory of a worker is looked at."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest.mock import Mock

from peers.pool.handle import WorkerHandle
from peers.pool.retirement import Limits, Retirement, resident


def a_worker(**traits: object) -> WorkerHandle:
    """As much of a worker as is looked at."""
    usual = {"retiring": False, "ready": True, "purpose": None, "asynchronous": False,
             "tasks_given": 0, "allowance": 1}  # fmt: skip
    return Mock(WorkerHandle, **{**usual, **traits})


def test_memory_is_looked_at_once_a_second() -> None:
    """Only of workers that have run something: one that begins beyond the limit is of some use."""
    rules = Retirement(Limits(max_memory=1 << 20))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert 0 < resident(child.pid) < 1 << 30
        process = Mock(pid=os.getpid())
        fresh, used = a_worker(process=process), a_worker(process=process, tasks_given=1)
        [(found, reason)] = rules.look([fresh, used], 5.0)
        assert found is used
        assert "MiB" in reason
        assert rules.look([used], 5.5) == []
        assert len(rules.look([used], 6.5)) == 1
    assert resident(child.pid) == 0
