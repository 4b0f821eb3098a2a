"""Claims as the database returns them, made without one."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import count
from uuid import uuid4

from peers.database.binary import pack_ids
from peers.database.rows import ClaimReply
from peers.pool.claim import Claim
from peers.pool.lease import Lease
from peers.pool.local_queue import LocalQueue

ONE_ATTEMPT = struct.pack(">iiiii", 1, 0, 21, 1, 1) + struct.pack(">ih", 2, 1)
"""The column `attempts` of a claim whose tasks are all in their first one: a smallint[]."""

_ids = count(1)


def a_claim(
    local_queue: LocalQueue, *kinds: str, priorities: Sequence[int] = (100,),
    timeouts: Sequence[float | None] | None = None, args: Sequence[bytes] | None = None,
    claimed_at: float = 0.0,
) -> Claim:  # fmt: skip
    """Return a claim of one task of each of these kinds; columns of equal values are short."""
    same_kind, same_priority = len(set(kinds)) == 1, len(set(priorities)) == 1
    reply = ClaimReply(
        uuid4().bytes, len(kinds), pack_ids([next(_ids) for _ in kinds]), ONE_ATTEMPT,
        kinds[:1] if same_kind else kinds,
        tuple(priorities[:1] if same_priority else priorities),
        None if timeouts is None else tuple(timeouts),
        b"[%b]" % b",".join([b"{}"] * len(kinds) if args is None else args), None, False,
    )  # fmt: skip
    return Claim(reply, local_queue, claimed_at)


def a_lease(
    local_queue: LocalQueue, kind: str = "k", *, priority: int = 100,
    timeout: float | None = None, claimed_at: float = 0.0,
) -> Lease:  # fmt: skip
    """Return the only task of a claim."""
    timeouts = None if timeout is None else [timeout]
    claim = a_claim(
        local_queue, kind, priorities=[priority], timeouts=timeouts, claimed_at=claimed_at
    )
    return claim.lease(0)
