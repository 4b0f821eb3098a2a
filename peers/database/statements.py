"""Claim tasks and record their outcomes: the database's functions as statements for a pipeline.

Arrays stay in Postgres's binary format, and JSON stays text, so that a statement costs the peer
little for each task. Every result is in binary form.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple
from uuid import UUID

from psycopg.pq.abc import PGresult

from peers.database.binary import (
    count,
    pack_bytes,
    pack_ids,
    pack_integers,
    pack_texts,
    pack_tokens,
    read_float,
    read_floats,
    read_integer,
    read_small,
    read_texts,
)
from peers.database.pipeline import Statement
from peers.database.rows import (
    ClaimReply,
    Unrecorded,
    Verdict,
)
from peers.database.storable import storable

_CLAIM_COLUMNS: Final = (
    b"select token, task_ids, attempts, kinds, priorities, timeouts, args, resume, more, limited,"
    b" ready_at, claimed_at"
)
_FROM_CLAIM: Final = b" from peers.claim($1::uuid, $2::text, $3::integer, $4::peers.claim_resume)"
_ASYNCHRONOUSLY: Final = b", set_config('synchronous_commit', 'off', true)"
_CLAIM: Final = _CLAIM_COLUMNS + _FROM_CLAIM
# set_config as a column costs less than in the from clause
_CLAIM_ASYNCHRONOUSLY: Final = _CLAIM_COLUMNS + _ASYNCHRONOUSLY + _FROM_CLAIM
_CLAIM_LIMITED: Final = _CLAIM_COLUMNS + (
    b", most_running, start_in, waits, opens_in, key, limited_resume from peers.claim_limited("
    b"$1::uuid, $2::text, $3::integer, $4::integer, $5::jsonb, $6::peers.claim_resume,"
    b" $7::bigint[], $8::peers.limited_resume)"
)
_CLAIM_LIMITED_ASYNCHRONOUSLY: Final = _CLAIM_LIMITED + _ASYNCHRONOUSLY
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
_STORE_LOGS: Final = (
    b"select peers.store_logs("
    b"$1::uuid, $2::bigint[], $3::uuid[], $4::integer[], $5::text[], $6::bigint[], $7::bytea[])"
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


def claim_limited(
    peer_id: UUID, queue: str, max_tasks: int, free_slots: int | None,
    tasks_per_slot: Mapping[str, int], resume: bytes | None, try_keys: Collection[int],
    limited_resume: bytes | None, *, durable: bool,
) -> Statement:  # fmt: skip
    """Claim tasks of a queue that has limits: limited ones only for the free slots.

    `free_slots`: None: claim no limited ones. `tasks_per_slot`: of the kinds whose tasks are short.
    `try_keys`: the keys of limited tasks that have ended. The claim looks there first.
    `limited_resume`: as `resume`, for limited tasks.
    """
    free = None if free_slots is None else b"%d" % free_slots
    per_slot = json.dumps(tasks_per_slot).encode()
    return Statement(
        _CLAIM_LIMITED if durable else _CLAIM_LIMITED_ASYNCHRONOUSLY,
        (
            peer_id.bytes,
            queue.encode(),
            b"%d" % max_tasks,
            free,
            per_slot,
            resume,
            pack_ids([*try_keys]),
            limited_resume,
        ),
        (1, 0, 0, 0, 0, 1, 1, 1),
    )


def read_claim(result: PGresult) -> ClaimReply:
    """Return the reply to `claim`."""
    return _read_lease(result, 0)


def read_limited_claim(result: PGresult) -> list[ClaimReply]:
    """Return the reply to `claim_limited`. The last one is of unlimited tasks."""
    last = result.ntuples - 1
    return [_read_limited_lease(result, row, is_limited=row < last) for row in range(last + 1)]


def _read_limited_lease(result: PGresult, row: int, *, is_limited: bool) -> ClaimReply:
    most_running, start_in, waits, opens_in, key, limited_resume = (
        result.get_value(row, n) for n in range(12, 18)
    )
    return replace(
        _read_lease(result, row),
        is_limited=is_limited,
        most_running=None if most_running is None else read_integer(most_running),
        start_in=None if start_in is None else read_float(start_in),
        waits=None if waits is None else waits.decode(),
        opens_in=None if opens_in is None else read_float(opens_in),
        key=None if key is None else read_integer(key),
        limited_resume=limited_resume,
    )


def _read_lease(result: PGresult, row: int) -> ClaimReply:
    value = result.get_value
    token, task_ids = value(row, 0), value(row, 1)
    resume, more, limited = value(row, 7), value(row, 8) == _TRUE, value(row, 9) == _TRUE
    if not token or not task_ids:
        return ClaimReply(b"", 0, b"", b"", (), (), None, b"[]", resume, more, limited)
    timeouts = value(row, 5)
    return ClaimReply(
        token=token,
        count=count(task_ids),
        task_ids=task_ids,
        attempts=value(row, 2) or b"",
        kinds=read_texts(value(row, 3) or b""),
        priorities=read_small(value(row, 4) or b""),
        timeouts=None if timeouts is None else read_floats(timeouts),
        args=value(row, 6) or b"[]",
        resume=resume,
        more=more,
        limited=limited,
        ready_at=value(row, 10) or b"",
        claimed_at=read_integer(value(row, 11)),
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


class LogToStore(NamedTuple):
    """What an attempt has printed. `text` None: delete what was stored while it ran.

    `outcome`: "failed" or "completed"; None: it runs. `size`: how many bytes it has printed.
    """

    task_id: int
    token: bytes
    attempt: int
    outcome: str | None
    size: int
    text: str | None


def store_logs(peer_id: UUID, logs: Sequence[LogToStore], encoding: str) -> Statement:
    """Store logs. It never fails the transaction: see `read_error`.

    Characters that the database's encoding does not have are stored as escapes.
    """
    return Statement(
        _STORE_LOGS,
        (
            peer_id.bytes,
            pack_ids([log.task_id for log in logs]),
            pack_tokens([log.token for log in logs]),
            pack_integers([log.attempt for log in logs]),
            pack_texts([log.outcome for log in logs]),
            pack_ids([log.size for log in logs]),
            pack_bytes([None if log.text is None else _bytes(log.text, encoding) for log in logs]),
        ),
        (1,) * 7,
    )


def _bytes(text: str, encoding: str) -> bytes:
    return text.encode() if encoding == "UTF8" else str(storable(text, encoding)).encode()


def read_error(result: PGresult) -> str | None:
    """Return why the database has not stored the logs; None: it has."""
    raw = result.get_value(0, 0)
    return None if raw is None else raw.decode()


def reconcile(peer_id: UUID, tokens: Sequence[bytes]) -> Statement:
    """Release the leases of this peer under other tokens than these."""
    return Statement(_RECONCILE, (peer_id.bytes, pack_tokens(tokens)), (1, 1))


def read_unrecorded(result: PGresult) -> list[Unrecorded]:
    """Return the outcomes that were not recorded, and what follows from recorded failures."""
    return [
        Unrecorded(
            read_integer(result.get_value(row, 0)),
            UUID(bytes=result.get_value(row, 1)),
            _verdict(result.get_value(row, 2)),
        )
        for row in range(result.ntuples)
    ]


def _verdict(raw: bytes | None) -> Verdict:
    verdict: Verdict = (raw or b"").decode()  # type: ignore[assignment]  # the contract says so
    return verdict


def _flag(value: bool) -> bytes:
    return b"true" if value else b"false"


def read_count(result: PGresult) -> int:
    """Return the number that a function has returned; 0 for none."""
    return read_integer(result.get_value(0, 0))
