"""A peer without processes: it claims one task at a time, for this process to run."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg
from psycopg.rows import tuple_row

from peers.database import functions
from peers.database.rows import Claimed
from peers.database.storable import storable
from peers.handlers import Handler, registry
from peers.peer.due_times import backfill_of, fire_of
from peers.protocol.messages import Completed
from peers.testing.execution import Attempt, Ended, current_task_of
from peers.testing.handler_connection import HandlerConnection, SharedConnection
from peers.types import KindPolicy
from peers.worker.app import declarations
from peers.worker.assigned import AssignedTask

_LEASE: Final = timedelta(days=1)
_NOT_OF_THE_FAILURE: Final = ("execution_id", "seconds", "exhausted")
_PROMOTED_AT_ONCE: Final = 1000
_NEVER: Final = float("inf")
_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode

_CLAIM: Final = """
    select token, task_ids, attempts, kinds, priorities, timeouts, args, most_running, start_in,
           opens_in, more
    from peers.claim_limited(%s, %s, %s, %s)
"""
_QUEUES: Final = """
    select queue from peers.ready union select queue from peers.ready_limited order by 1
"""
_FIRE: Final = """
    select count(*) from (
        select from peers.fire_schedules(%s::jsonb)
        union all
        select from peers.run_backfills(%s::jsonb)
    ) fired
"""


class Work(list[Attempt]):
    """The attempts of one handler call: several of them are a batch."""


@dataclass(frozen=True, slots=True)
class _Lease:
    """A claimed task, and how many tasks of its lease may run at once."""

    claimed: Claimed
    most_running: int | None


class InlinePeer:
    """The peer, on a connection that others may use too, in the middle of a transaction too."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._for_handlers = SharedConnection(connection)
        self._id: UUID | None = None
        self._executions = 0
        self.opens_in = _NEVER
        """In how many seconds a limit opens under which tasks wait, by the last claims."""

    @contextmanager
    def joined(self, kinds: Sequence[Handler]) -> Iterator[None]:
        """Be one of the peers of the database, for a `with` block."""
        before, self._connection.row_factory = self._connection.row_factory, tuple_row
        try:
            self._join(kinds)
            yield
            self._leave()
        finally:
            if self._id is not None and not self._connection.closed:
                self._leave_after_an_error()
            self._for_handlers.close()
            self._connection.row_factory = before

    def _join(self, kinds: Sequence[Handler]) -> None:
        policies = [
            KindPolicy(
                handler.kind,
                handler.max_attempts,
                None if handler.timeout is None else handler.timeout.total_seconds(),
                handler.backoff.total_seconds(),
                handler.backoff_cap.total_seconds(),
                handler.queue,
                handler.priority,
            )
            for handler in kinds
        ]
        queues = {handler.queue: 1 for handler in kinds} or {"default": 1}
        self._id = functions.join(
            self._connection, socket.gethostname(), os.getpid(), queues, policies, _LEASE
        )

    def declare(self, kinds: Sequence[Handler]) -> None:
        """Declare the limits and schedules of these kinds, as a peer does when it has joined."""
        names = {handler.kind for handler in kinds}
        declared = json.loads(declarations())
        for sort, statement in (
            ("limits", "select * from peers.declare_limits(%s, %s::jsonb)"),
            ("schedules", "select * from peers.declare_schedules(%s, %s::jsonb)"),
        ):
            chosen = [each for each in declared[sort] if each["kind"] in names]
            if chosen:
                self._connection.execute(statement, (self._id, json.dumps(chosen)))

    def _leave(self) -> None:
        assert self._id is not None
        functions.leave(self._connection, self._id)
        self._id = None

    def _leave_after_an_error(self) -> None:
        """Give back what was claimed, unless the transaction of the session has failed."""
        status = self._connection.info.transaction_status
        if status is not psycopg.pq.TransactionStatus.INERROR:
            self._leave()

    # ------------------------------------------------------------------------------------ claiming

    def claim(self, queues: Sequence[str] | None, most: int) -> Work | None:
        """Claim the next task of the first queue that has one, or a batch; None: there is none."""
        self.opens_in = _NEVER
        for queue in queues if queues is not None else self._ready_queues():
            leases = self._claim(queue, most)
            if leases:
                return self._choose(leases)
        return None

    def _ready_queues(self) -> list[str]:
        return [queue for (queue,) in self._connection.execute(_QUEUES)]

    def _claim(self, queue: str, most: int) -> list[_Lease]:
        more = True
        while more:
            leases: list[_Lease] = []
            for row in self._connection.execute(_CLAIM, (self._id, queue, most, most)):
                token, ids, attempts, kinds, priorities, timeouts, args = row[:7]
                most_running, start_in, opens_in, more = row[7:]
                if opens_in is not None:
                    self.opens_in = min(self.opens_in, opens_in)
                if not ids:
                    continue
                if start_in is not None and start_in > 0:
                    time.sleep(start_in)  # 0.13 s at most
                for index, body in enumerate(_split(args.encode())):
                    claimed = Claimed(
                        ids[index], token, _each(attempts, index), _each(kinds, index),
                        bytes(body), None if timeouts is None else timeouts[index],
                        _each(priorities, index),
                    )  # fmt: skip
                    leases.append(_Lease(claimed, most_running))
            if leases:
                return leases
        return []

    def _choose(self, leases: list[_Lease]) -> Work:
        """Return the first task, with those of its batch; release the others."""
        first = leases[0]
        handler = registry()[first.claimed.kind]
        size = handler.batch_size or 1
        if first.most_running is not None:
            size = min(size, first.most_running)
        alike = [
            lease
            for lease in leases
            if lease.claimed.kind == first.claimed.kind
            and lease.claimed.timeout == first.claimed.timeout
        ]
        chosen = alike[:size]
        self._release([lease.claimed for lease in leases if lease not in chosen])
        return Work(self._attempt(lease.claimed, handler) for lease in chosen)

    def _attempt(self, claimed: Claimed, handler: Handler) -> Attempt:
        self._executions += 1
        timeout = claimed.timeout
        if timeout is None and handler.timeout is not None:
            timeout = handler.timeout.total_seconds()
        task = AssignedTask(
            self._executions, claimed.task_id, claimed.token.bytes, claimed.attempt, claimed.kind,
            claimed.args, timeout,
        )  # fmt: skip
        assert self._id is not None
        scheduler = HandlerConnection(self._for_handlers, self._id, claimed)
        return Attempt(task, current_task_of(task, scheduler), scheduler)

    def _release(self, tasks: Sequence[Claimed]) -> None:
        if tasks:
            self._connection.execute(
                "select * from peers.release(%s, %s::bigint[], %s::uuid[], '{}', true)",
                (self._id, [task.task_id for task in tasks], [task.token for task in tasks]),
            )

    # ----------------------------------------------------------------------------------- recording

    def record(self, ended: Sequence[Ended]) -> None:
        """Record what became of the attempts."""
        for each in ended:
            token, task_id = UUID(bytes=each.task.token), each.task.task_id
            if isinstance(each.outcome, Completed):
                self._connection.execute(
                    "select * from peers.complete(%s, %s::uuid[], %s::bigint[], %s::jsonb, true)",
                    (self._id, [token], [task_id], each.outcome.results.decode()),
                )
            else:
                self._connection.execute(
                    "select * from peers.fail(%s, %s::jsonb, true)",
                    (self._id, json.dumps([self._failure(each)])),
                )

    def _failure(self, ended: Ended) -> dict[str, object]:
        encoding = self._connection.info.parameter_status("server_encoding") or "UTF8"
        failure = {
            name: storable(value, encoding)
            for name, value in msgspec.structs.asdict(ended.outcome).items()
            if name not in _NOT_OF_THE_FAILURE
        }
        return {
            "task_id": ended.task.task_id, "token": str(UUID(bytes=ended.task.token)), **failure
        }  # fmt: skip

    # ----------------------------------------------------------------------------------- due times

    def do_what_is_due(self) -> float:
        """Promote scheduled tasks and fire schedules; return in how many seconds more is due."""
        while self._value("select peers.promote(%s)", _PROMOTED_AT_ONCE) == _PROMOTED_AT_ONCE:
            self._for_handlers.close()
        next_schedule = self._fire()
        [(next_task, now)] = self._connection.execute(
            "select extract(epoch from peers.next_due())::float8,"
            " extract(epoch from peers.now())::float8"
        ).fetchall()
        waits = [moment - now for moment in (next_task, next_schedule) if moment is not None]
        return max(0.0, min(waits, default=_NEVER))

    def _fire(self) -> float | None:
        while True:
            due = self._value("select peers.due_schedules(50, true)")
            now = datetime.fromtimestamp(due["now"], UTC)
            fires = [fire_of(schedule, now) for schedule in due["schedules"]]
            backfills = [backfill_of(backfill) for backfill in due["backfills"]]
            if not fires and not backfills:
                next_at: float | None = due["next"]
                return next_at
            if not self._value(_FIRE, json.dumps(fires), json.dumps(backfills)):
                return None  # another peer has fired it

    def _value(self, query: str, *arguments: object) -> Any:
        [(value,)] = self._connection.execute(query.encode(), arguments).fetchall()
        return value


def _each(column: Sequence[Any], index: int) -> Any:
    """Return one value of a column that holds one value if all are the same."""
    return column[index] if len(column) > 1 else column[0]
