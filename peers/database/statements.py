"""The functions of the database that a peer calls all the time, as statements for a pipeline.

Arrays stay in Postgres's binary format, and JSON stays text, so that a statement costs the peer
little for each task. Every result is in binary form.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers.database.binary import (
    count,
    pack_ids,
    pack_texts,
    pack_tokens,
    read_floats,
    read_small,
    read_texts,
)
from peers.database.pipeline import Statement
from peers.database.rows import (
    ClaimReply,
    Promoted,
    Pruned,
    Reclaimed,
    Reclaims,
    Sibling,
    Unrecorded,
    Unrunnable,
    Verdict,
)
from peers.database.storable import storable

_CLAIM: Final = (
    b"select token, task_ids, attempts, kinds, priorities, timeouts, args, resume, more"
    b" from peers.claim($1::uuid, $2::text, $3::integer, $4::peers.claim_resume)"
)
_CLAIM_ASYNCHRONOUSLY: Final = _CLAIM + b", set_config('synchronous_commit', 'off', true)"
_COMPLETE: Final = (
    b"select task_id, token, verdict"
    b" from peers.complete($1::uuid, $2::uuid[], $3::bigint[], $4::jsonb, $5::boolean)"
)
_FAIL: Final = b"select task_id, token, verdict from peers.fail($1::uuid, $2::jsonb, $3::boolean)"
_RELEASE: Final = (
    b"select task_id, token, verdict"
    b" from peers.release($1::uuid, $2::bigint[], $3::uuid[], $4::text[], $5::boolean)"
)
_RECONCILE: Final = b"select peers.reconcile($1::uuid, $2::uuid[])"

_PROMOTE: Final = (
    b"select peers.promote($1::integer), date_part('epoch', peers.now()),"
    b" date_part('epoch', peers.next_due())"
)
_RECLAIM: Final = (
    b"select task_id, attempt, lost_peer_id, host, null::double precision"
    b" from peers.reclaim($1::uuid, $2::integer)"
    b" union all select null, null, null, null, peers.next_reclaim($1::uuid)"
)
_SIBLINGS: Final = (
    b"select sibling_id, pid, process_start, liveness_lock from peers.siblings($1::uuid)"
)
_DECLARE_LOST: Final = b"select unnest(peers.declare_lost($1::uuid, $2::uuid[]))"
_PRUNE: Final = (
    b"select looked_at, deleted, finished"
    b" from peers.prune(make_interval(secs => $1::double precision), $2::integer)"
)
_UNRUNNABLE: Final = (
    b"select queue, kind, tasks, date_part('epoch', oldest_ready_at) from peers.unrunnable()"
)
_TRUE: Final = b"\1"


def claim(
    peer_id: UUID, queue: str, max_tasks: int, resume: bytes | None, *, durable: bool
) -> Statement:
    """Claim tasks of a queue. `resume`: what the last claim of this queue returned.

    Unless `durable`, the COMMIT does not wait for the disk, and if Postgres crashes it may forget
    the transaction.
    """
    return Statement(
        _CLAIM if durable else _CLAIM_ASYNCHRONOUSLY,
        (peer_id.bytes, queue.encode(), b"%d" % max_tasks, resume),
        (1, 0, 0, 1),
    )


def read_claim(result: PGresult) -> ClaimReply:
    """Return the reply to `claim`."""
    token, task_ids, attempts, kinds, priorities, timeouts, args, resume, more = (
        result.get_value(0, column) for column in range(9)
    )
    return ClaimReply(
        token=token or b"",
        count=count(task_ids) if task_ids else 0,
        task_ids=task_ids or b"",
        attempts=attempts or b"",
        kinds=read_texts(kinds or b""),
        priorities=read_small(priorities or b""),
        timeouts=None if timeouts is None else read_floats(timeouts),
        args=args or b"[]",
        resume=resume,
        more=more == _TRUE,
    )


def complete(
    peer_id: UUID, tokens: bytes, task_ids: bytes, results: bytes, *, patient: bool = False
) -> Statement:
    """Complete tasks. `tokens` is a uuid[] with one for all or one for each, in binary form.

    `patient`: wait a moment for transactions that have locked the tasks.
    """
    return Statement(
        _COMPLETE, (peer_id.bytes, tokens, task_ids, results, _flag(patient)), (1, 1, 1, 0, 0)
    )


def fail(
    peer_id: UUID, failures: Sequence[Mapping[str, object]], encoding: str, *, patient: bool = False
) -> Statement:
    """Record failed attempts.

    Each has task_id, token and, if known, error_type, error_message, traceback, exit_signal,
    exit_code, retry_in (seconds, instead of the backoff), reject (dead at once) and snooze (the
    attempt does not count). Characters that the database's encoding does not have are recorded as
    escapes.
    """
    document = [
        {name: storable(value, encoding) for name, value in failure.items()} for failure in failures
    ]
    text = json.dumps(document, default=str).encode()
    return Statement(_FAIL, (peer_id.bytes, text, _flag(patient)), (1, 0, 0))


def release(
    peer_id: UUID, task_ids: Sequence[int], tokens: Sequence[bytes], reasons: Sequence[str | None],
    *, patient: bool = False,
) -> Statement:  # fmt: skip
    """Release leases: the attempts do not count."""
    return Statement(
        _RELEASE,
        (
            peer_id.bytes, pack_ids(task_ids), pack_tokens(tokens), pack_texts(reasons),
            _flag(patient),
        ),
        (1, 1, 1, 1, 0),
    )  # fmt: skip


def reconcile(peer_id: UUID, tokens: Sequence[bytes]) -> Statement:
    """Release the leases of this peer under other tokens than these."""
    return Statement(_RECONCILE, (peer_id.bytes, pack_tokens(tokens)), (1, 1))


def read_unrecorded(result: PGresult) -> list[Unrecorded]:
    """Return the outcomes that were not recorded."""
    return [
        Unrecorded(
            _integer(result.get_value(row, 0)),
            UUID(bytes=result.get_value(row, 1)),
            _verdict(result.get_value(row, 2)),
        )
        for row in range(result.ntuples)
    ]


def _verdict(raw: bytes | None) -> Verdict:
    verdict: Verdict = (raw or b"").decode()  # type: ignore[assignment]  # the contract says so
    return verdict


# ----------------------------------------------------------------------------------- maintenance


def promote(max_tasks: int) -> Statement:
    """Make scheduled tasks that are due ready, and ask when the next ones are due."""
    return Statement(_PROMOTE, (b"%d" % max_tasks,), (0,))


def read_promoted(result: PGresult) -> Promoted:
    """Return the reply to `promote`."""
    promoted, now, due_at = (result.get_value(0, column) for column in range(3))
    return Promoted(
        _integer(promoted), _float(now), float("inf") if due_at is None else _float(due_at)
    )


def reclaim(peer_id: UUID, max_tasks: int) -> Statement:
    """Take back the leases of lost peers, and ask when there may be more."""
    return Statement(_RECLAIM, (peer_id.bytes, b"%d" % max_tasks), (1, 0))


def read_reclaimed(result: PGresult) -> Reclaims:
    """Return the reply to `reclaim`."""
    tasks, seconds = [], float("inf")
    for row in range(result.ntuples):
        task_id, attempt, peer_id, host, wait = (result.get_value(row, n) for n in range(5))
        if task_id is not None:
            tasks.append(
                Reclaimed(
                    _integer(task_id), _integer(attempt), UUID(bytes=peer_id),
                    None if host is None else host.decode(),
                )
            )  # fmt: skip
        elif wait is not None:
            seconds = _float(wait)
    return Reclaims(tasks, seconds)


def siblings(peer_id: UUID) -> Statement:
    """Return the other peers on this peer's host that are not lost."""
    return Statement(_SIBLINGS, (peer_id.bytes,), (1,))


def read_siblings(result: PGresult) -> list[Sibling]:
    """Return these peers."""
    return [
        Sibling(
            UUID(bytes=result.get_value(row, 0)),
            _integer(result.get_value(row, 1)),
            _integer(result.get_value(row, 2)),
            (result.get_value(row, 3) or b"").decode(),
        )
        for row in range(result.ntuples)
    ]


def declare_lost(peer_id: UUID, lost_peer_ids: Sequence[UUID]) -> Statement:
    """Declare peers of this host lost whose processes have ended."""
    packed = pack_tokens([lost.bytes for lost in lost_peer_ids])
    return Statement(_DECLARE_LOST, (peer_id.bytes, packed), (1, 1))


def read_lost(result: PGresult) -> list[UUID]:
    """Return which of these peers are lost now."""
    return [UUID(bytes=result.get_value(row, 0)) for row in range(result.ntuples)]


def prune(older_than: timedelta, max_tasks: int) -> Statement:
    """Delete tasks that ended longer ago than older_than, in one step of limited size."""
    seconds = b"%f" % older_than.total_seconds()
    return Statement(_PRUNE, (seconds, b"%d" % max_tasks), (0, 0))


def read_pruned(result: PGresult) -> Pruned:
    """Return the result of one step."""
    looked_at, deleted, finished = (result.get_value(0, column) for column in range(3))
    return Pruned(_integer(looked_at), _integer(deleted), finished == _TRUE)


def unrunnable() -> Statement:
    """Find the kinds with ready tasks in a queue that no live peer can run."""
    return Statement(_UNRUNNABLE)


def read_unrunnable(result: PGresult) -> list[Unrunnable]:
    """Return these kinds."""
    return [
        Unrunnable(
            (result.get_value(row, 0) or b"").decode(),
            (result.get_value(row, 1) or b"").decode(),
            _integer(result.get_value(row, 2)),
            datetime.fromtimestamp(_float(result.get_value(row, 3)), UTC),
        )
        for row in range(result.ntuples)
    ]


def _flag(value: bool) -> bytes:
    return b"true" if value else b"false"


def _integer(raw: bytes | None) -> int:
    return int.from_bytes(raw or b"", "big", signed=True)


def _float(raw: bytes | None) -> float:
    number: float = struct.unpack(">d", raw or bytes(8))[0]
    return number


def read_count(result: PGresult) -> int:
    """Return the number that a function has returned; 0 for none."""
    return _integer(result.get_value(0, 0))
