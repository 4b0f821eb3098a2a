"""Kill one peer while it holds leases."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from peers.demo.processes import PeerProcess

_LOOK_AGAIN: Final = 0.02
_LEASES: Final = """
    select pid, array_agg(task_id order by task_id) from peers.running
    where queue = %s and pid is not null group by pid order by count(*) desc
"""


def kill_one(
    connection: psycopg.Connection[Any], queue: str, peers: Sequence[PeerProcess]
) -> str | None:
    """Kill the peer that holds most leases; return a sentence, or None if no peer holds any."""
    for pid in _leases(connection, queue):
        peer = next((p for p in peers if p.process.pid == pid and p.alive), None)
        if peer is None:
            continue
        # stopped first, so that it cannot record an outcome between the look and the kill
        peer.process.send_signal(signal.SIGSTOP)
        leases, before = _leases(connection, queue).get(pid), None
        while leases != before:  # a statement that it had sent may still be running
            time.sleep(_LOOK_AGAIN)
            leases, before = _leases(connection, queue).get(pid), leases
        if leases:
            peer.killed = True
            peer.process.kill()  # SIGKILL: the kernel kills its workers with it
            peer.process.wait()
            return f"peer {peer.number} (pid {pid}) holds {len(leases)} leases: killed it"
        peer.process.send_signal(signal.SIGCONT)
    return None


def _leases(connection: psycopg.Connection[Any], queue: str) -> dict[int, list[int]]:
    return dict(connection.execute(_LEASES, [queue]).fetchall())
