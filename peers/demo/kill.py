"""Kill one peer while it runs tasks."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from peers.demo.processes import PeerProcess

_LOOK_AGAIN: Final = 0.02
_RUNNING: Final = """
    select pid, array_agg(task_id order by task_id) from peers.running
    where queue = %s and pid is not null group by pid order by count(*) desc
"""


def kill_one(
    connection: psycopg.Connection[Any], queue: str, peers: Sequence[PeerProcess]
) -> str | None:
    """Kill the peer that runs most tasks; return a sentence, or None if no peer runs any."""
    for pid in _running(connection, queue):
        peer = next((p for p in peers if p.process.pid == pid and p.alive), None)
        if peer is None:
            continue
        # stopped first, so that it cannot record an outcome between the look and the kill
        peer.process.send_signal(signal.SIGSTOP)
        tasks, before = _running(connection, queue).get(pid), None
        while tasks != before:  # a statement that it had sent may still be running
            time.sleep(_LOOK_AGAIN)
            tasks, before = _running(connection, queue).get(pid), tasks
        if tasks:
            peer.killed = True
            peer.process.kill()  # SIGKILL: the kernel kills its workers with it
            peer.process.wait()
            return f"peer {peer.number} (pid {pid}) holds {len(tasks)} tasks: killed it"
        peer.process.send_signal(signal.SIGCONT)
    return None


def _running(connection: psycopg.Connection[Any], queue: str) -> dict[int, list[int]]:
    return dict(connection.execute(_RUNNING, [queue]).fetchall())
