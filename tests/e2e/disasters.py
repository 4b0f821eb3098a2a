"""Disasters that more than one suite stages."""

from __future__ import annotations

import os
import signal
from typing import Final

from tests.e2e import ledger
from tests.e2e.harness import PeerProcess, Stage, until
from tests.support.world import Patch

LEASE: Final = {"lease_timeout": "2s"}

NO_FENCE: Final = Patch(
    "52_complete.sql",
    "where t.id = any (_task_ids) and t.token = _token and t.state = 'running' and t.xmax = '0'\n"
    "              and exists (select from peers.lease l"
    " where l.token = _token and l.peer_id = complete.peer_id);",
    "where t.id = any (_task_ids) and t.state = 'running';",
)
"""Whoever says that a task is done is believed."""


def stop_past_the_lease(stage: Stage) -> tuple[PeerProcess, int]:
    """A peer is stopped in the middle of a task until another one runs it; then its own handler
    ends, and the peer goes on while the second run is still under way. The stopped peer, the task.

    The process that would kill its workers before the lease ends is stopped as well.
    """
    stopped = stage.peer(**LEASE)
    task_id = stage.submit("held", {"gate": stage.gate()})
    stage.until_started(task_id)
    killers = stopped.orphan_killers()
    for pid in (*killers, stopped.pid):
        os.kill(pid, signal.SIGSTOP)
    stage.peer(**LEASE)
    stage.until_started(task_id, times=2)
    first, second = stage.started(task_id)
    assert first.token != second.token
    os.kill(second.pid, signal.SIGSTOP)
    stage.open(stage.gate())
    end = (*first.lease, "end")
    until(
        lambda: end in {(*e.lease, e.event) for e in ledger.read(stage.ledger)},
        "the end of the first run",
    )
    for pid in (stopped.pid, *killers):
        os.kill(pid, signal.SIGCONT)
    stopped.joined(times=2)
    os.kill(second.pid, signal.SIGCONT)
    stage.until_state("completed", task_id)
    return stopped, task_id
