"""Watch the run until every task has ended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from peers import PeersError, graph_status_in
from peers.demo import ledger
from peers.demo.kill import kill_one

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import psycopg

    from peers.demo.processes import PeerProcess
    from peers.demo.submit import Submitted

_LOOK_EVERY: Final = 0.1
_LINE_EVERY: Final = 2.0
_STUCK_AFTER: Final = 60.0


class DemoError(PeersError):
    """The demo cannot continue."""


def say(sentence: str) -> None:
    """Print a sentence to stderr."""
    print(sentence, file=sys.stderr, flush=True)


def watch(
    connection: psycopg.Connection[Any], submitted: Submitted, peers: Sequence[PeerProcess],
    file: Path, *, kill: bool,
) -> None:  # fmt: skip
    """Return when every task has ended; with `kill`, kill a peer when half of them have.

    Raises DemoError when a peer ends by itself, or when no task ends for a minute.
    """
    started = last_end = time.monotonic()
    next_line, ended = 0.0, -1
    while ended < submitted.tasks:
        before = ended
        status = graph_status_in(connection, submitted.graph_id)
        ended = status.completed + status.dead + status.cancelled
        now = time.monotonic()
        last_end = now if ended != before else last_end
        if now >= next_line or ended == submitted.tasks:
            next_line = now + _LINE_EVERY
            runs = Counter(entry.peer for entry in ledger.read(file))
            shares = (
                f"peer {p.number}: {runs[p.number]}{'' if p.alive else ' (killed)'}" for p in peers
            )
            say(f"{ended}/{submitted.tasks} · {' · '.join(shares)} · {now - started:.0f} s")
        if kill and 2 * ended >= submitted.tasks:
            killed = kill_one(connection, submitted.queue, peers)
            kill = killed is None
            say(killed or "no peer holds a lease at this moment")
        _check_peers(peers, stuck=now - last_end > _STUCK_AFTER)
        time.sleep(_LOOK_EVERY)


def _check_peers(peers: Sequence[PeerProcess], *, stuck: bool) -> None:
    for peer in peers:
        if not peer.alive and not peer.killed:
            code, log = peer.process.returncode, peer.log_tail()
            raise DemoError(f"peer {peer.number} ended with exit code {code}. Its log:\n{log}")
    if stuck:
        logs = "\n".join(peer.log_tail() for peer in peers)
        raise DemoError(f"no task ended for {_STUCK_AFTER:g} s. The peers' logs:\n{logs}")
