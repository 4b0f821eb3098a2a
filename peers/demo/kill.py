"""The accident: halfway, one peer is killed while it holds work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from uuid import UUID

    from peers.demo.fleet import Fleet, Member
    from peers.demo.watch import Holding, Watch

_LOOK_AGAIN_SECONDS = 0.02


class Killed(NamedTuple):
    """The victim, and how many leases it took with it."""

    member: Member
    peer_id: UUID
    leases: int


def kill_one(fleet: Fleet, watch: Watch) -> Killed | None:
    """Kill the peer that holds most; None if nobody holds anything just now.

    The victim is stopped first, so that it cannot settle between the look and the kill.
    """
    for holding in watch.holdings():
        member = fleet.by_pid(holding.pid)
        if member is None:
            continue
        member.pause()
        leases = len(_settled(watch, holding.pid))
        if leases:
            member.kill()
            watch.mark_killed(holding.peer_id)
            return Killed(member, holding.peer_id, leases)
        member.resume()
    return None


def _settled(watch: Watch, pid: int) -> frozenset[int]:
    """What a stopped peer holds, once the statement that it may have sent is through."""
    before = _held(watch.holdings(), pid)
    while True:
        time.sleep(_LOOK_AGAIN_SECONDS)
        now = _held(watch.holdings(), pid)
        if now == before:
            return now
        before = now


def _held(holdings: list[Holding], pid: int) -> frozenset[int]:
    return next((holding.task_ids for holding in holdings if holding.pid == pid), frozenset())
