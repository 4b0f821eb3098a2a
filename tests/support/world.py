"""Helpers of the SQL tests: peers, sessions that wait for one another, the clock, the journal."""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID, uuid4

import psycopg

from tests.support.server import SQL_FOLDER, Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

DEADLINE: Final = 30.0
"""Seconds that anything awaited may take on the slowest machine."""

LONG_WAIT: Final = 2.0
LOOKS: Final = 100
"""A wait for a lock is long if it is seen so many times in a row, for so many seconds."""

_A_SESSION_WAITS: Final = (
    "select exists (select from pg_stat_activity"
    " where datname = current_database() and wait_event_type = 'Lock')"
)

LEASE: Final = "30 s"

Result = TypeVar("Result")


def rows(db: Connection, query: str, *arguments: object) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    return db.execute(query, arguments or None).fetchall()


def row(db: Connection, query: str, *arguments: object) -> dict[str, Any]:
    """Return the only row of a query."""
    [only] = rows(db, query, *arguments)
    return only


def column(db: Connection, query: str, *arguments: object) -> list[Any]:
    """Return the first column of a query's rows."""
    return [next(iter(each.values())) for each in rows(db, query, *arguments)]


def value(db: Connection, query: str, *arguments: object) -> Any:
    """Return the only value of a query."""
    [only] = column(db, query, *arguments)
    return only


def run(db: Connection, statement: str, *arguments: object) -> None:
    """Execute a statement, and ignore its rows."""
    db.execute(statement, arguments or None)


def submit(db: Connection, kind: str = "a", **options: object) -> int:
    """Call peers.submit with named arguments, and return the task's id."""
    if "args" in options:
        options["args"] = json.dumps(options["args"])
    types = {"args": "jsonb", "depends_on": "bigint[]", "scheduled_at": "timestamptz"}
    types |= {"timeout": "interval", "metadata": "jsonb", "priority": "integer"}
    types |= {"max_attempts": "integer", "on_parent_failure": "peers.parent_failure_policy"}
    types |= {"graph_id": "bigint"}
    named = "".join(f", {name} => %s::{types.get(name, 'text')}" for name in options)
    task_id: int = value(db, f"select peers.submit(%s{named})", kind, *options.values())
    return task_id


def task_row(db: Connection, task_id: int) -> dict[str, Any]:
    """The task as it is in the database."""
    return row(db, "select * from peers.task where id = %s", task_id)


def state(db: Connection, task_id: int) -> str:
    """Return the state of a task."""
    return str(value(db, "select state from peers.task where id = %s", task_id))


def states(db: Connection, *task_ids: int) -> list[str]:
    """Return the states of these tasks, in this order."""
    return [state(db, task_id) for task_id in task_ids]


def advance(db: Connection, span: str) -> None:
    """Move the scheduler's clock forward."""
    run(
        db,
        "insert into peers.clock (shift) values (%s::interval)"
        " on conflict (one_row) do update set shift = clock.shift + excluded.shift",
        span,
    )


def stop_clock(db: Connection, moment: str = "peers.now()") -> None:
    """Let the scheduler's clock move only when the test moves it, however slow the machine is."""
    stopped = value(db, f"select ({moment} - coalesce((select shift from peers.clock), '0'))::text")
    patch = Patch(
        "00_schema.sql", "return clock_timestamp() +", f"return timestamptz '{stopped}' +"
    )
    apply_patches(db, [patch])


@dataclass(frozen=True)
class Claim:
    """A task as peers.claim returned it."""

    task_id: int
    token: UUID
    attempt: int
    kind: str
    args: dict[str, Any]
    timeout: float | None
    priority: int

    @property
    def pair(self) -> tuple[int, UUID]:
        """Return the task and the token, which an outcome needs."""
        return self.task_id, self.token


def claims_of(answer: dict[str, Any]) -> list[Claim]:
    """Return the tasks of the one row that peers.claim returns."""
    count = len(answer["task_ids"])

    def each(values: list[Any] | None) -> list[Any]:
        if values is None:
            return [None] * count
        return values * count if len(values) == 1 else values

    assert (answer["token"] is None) == (count == 0)
    columns = (
        answer["task_ids"],
        [answer["token"]] * count,
        each(answer["attempts"]),
        each(answer["kinds"]),
        json.loads(answer["args"]),
        each(answer["timeouts"]),
        each(answer["priorities"]),
    )
    return [Claim(*task) for task in zip(*columns, strict=True)]


@dataclass
class Peer:
    """A peer that consists of its verbs."""

    db: Connection
    id: UUID

    @classmethod
    def join(
        cls,
        db: Connection,
        *kinds: str,
        host: str = "host-a",
        lease: str = LEASE,
        queues: Sequence[str] = ("default",),
        policies: Sequence[dict[str, object]] = (),
    ) -> Peer:
        """Return a new peer; without kinds, one that can run kind `a`."""
        declared = [{"kind": kind} for kind in kinds or (("a",) if not policies else ())]
        identity = value(
            db,
            "select peers.join(%s, 4711, %s::jsonb, %s::jsonb, %s, peers.contract_version())",
            host,
            json.dumps(dict.fromkeys(queues, 8)),
            json.dumps([*declared, *policies]),
            lease,
        )
        return cls(db, identity)

    def heartbeat(self) -> dict[str, Any]:
        """Send a heartbeat and return its row."""
        return row(self.db, "select * from peers.heartbeat(%s)", self.id)

    def claim(self, max_tasks: int = 100, queue: str = "default") -> list[Claim]:
        """Claim tasks and return them."""
        query = "select * from peers.claim(%s, %s, %s)"
        return claims_of(row(self.db, query, self.id, queue, max_tasks))

    def complete(
        self, *claims: Claim | tuple[int, UUID], result: object = None, patient: bool = False
    ) -> dict[tuple[int, UUID], str]:
        """Complete all with one result; return the verdicts of those that were not recorded."""
        ids = [task_id for task_id, _ in pairs(claims)]
        tokens = [token for _, token in pairs(claims)]
        if len(set(tokens)) == 1:
            tokens = tokens[:1]
        return self.complete_each(ids, tokens, [result] * len(ids), patient=patient)

    def complete_each(
        self,
        ids: list[int],
        tokens: list[UUID],
        results: list[object],
        *,
        patient: bool = False,
    ) -> dict[tuple[int, UUID], str]:
        """Complete each task with its own result; one token may stand for all."""
        query = "select * from peers.complete(%s, %s::uuid[], %s::bigint[], %s::jsonb, %s)"
        return verdicts(rows(self.db, query, self.id, tokens, ids, json.dumps(results), patient))

    def fail(
        self, *claims: Claim | tuple[int, UUID], patient: bool = False, **report: Any
    ) -> dict[tuple[int, UUID], str]:
        """Fail all with one report; return the verdicts of those that were not recorded."""
        failures = [
            {"task_id": task_id, "token": str(token), "error_type": "Oops", **report}
            for task_id, token in pairs(claims)
        ]
        query = "select * from peers.fail(%s, %s::jsonb, %s)"
        return verdicts(rows(self.db, query, self.id, json.dumps(failures), patient))

    def release(
        self, *claims: Claim | tuple[int, UUID], patient: bool = False
    ) -> dict[tuple[int, UUID], str]:
        """Release tasks; return the verdicts of those that were not released."""
        ids = [task_id for task_id, _ in pairs(claims)]
        tokens = [token for _, token in pairs(claims)]
        query = "select * from peers.release(%s, %s::bigint[], %s::uuid[], '{}', %s)"
        return verdicts(rows(self.db, query, self.id, ids, tokens, patient))

    def reconcile(self, *tokens: UUID) -> int:
        """Release leases under other tokens than these, and return how many tasks."""
        query = "select peers.reconcile(%s, %s::uuid[])"
        count: int = value(self.db, query, self.id, list(tokens))
        return count

    def reclaim(self, max_tasks: int = 1000) -> list[dict[str, Any]]:
        """Take back leases of peers that are lost."""
        return rows(self.db, "select * from peers.reclaim(%s, %s)", self.id, max_tasks)

    def leave(self) -> int:
        """Leave, and return how many leases were released."""
        count: int = value(self.db, "select peers.leave(%s)", self.id)
        return count

    def advance_steadily(self, seconds: int) -> None:
        """Move the clock in steps of a third of the lease, with a heartbeat after each."""
        for _ in range(0, seconds, 10):
            advance(self.db, "10 s")
            self.heartbeat()


def verdicts(found: list[dict[str, Any]]) -> dict[tuple[int, UUID], str]:
    """Return the verdict of each attempt that was not recorded."""
    return {
        (each["task_id"], each["token"]): each["verdict"]
        for each in found
        if each["verdict"] not in ("retried", "dead", "cancelled", "snoozed")
    }


class Claimant:
    """A peer that remembers where its last claim ended, as a real one does."""

    def __init__(self, peer: Peer, queue: str = "default") -> None:
        self.peer = peer
        self.queue = queue
        self.resume: str | None = None
        self.more = False

    def claim(self, max_tasks: int) -> list[int]:
        """Claim once and return the tasks; `more` says whether to call again."""
        query = "select * from peers.claim(%s, %s, %s, %s::peers.claim_resume)"
        answer = row(self.peer.db, query, self.peer.id, self.queue, max_tasks, self.resume)
        self.resume, self.more = answer["resume"], answer["more"]
        return [claim.task_id for claim in claims_of(answer)]

    def claim_all(self, max_tasks: int) -> list[int]:
        """Claim until there is no more."""
        taken = self.claim(max_tasks)
        while self.more:
            taken += self.claim(max_tasks)
        return taken


def pairs(claims: Iterable[Claim | tuple[int, UUID]]) -> list[tuple[int, UUID]]:
    """Return (task, token) of claims; pairs are returned unchanged."""
    return [claim.pair if isinstance(claim, Claim) else claim for claim in claims]


def promote(db: Connection) -> int:
    """Move tasks that are due to ready."""
    count: int = value(db, "select peers.promote()")
    return count


def problems(db: Connection) -> list[dict[str, Any]]:
    """What peers.check finds."""
    return rows(db, "select * from peers.check()")


@dataclass
class World:
    """One database, and sessions that act in it at the same time."""

    db: Connection
    connect: Callable[[], Connection]
    pool: ThreadPoolExecutor
    _works: list[Future[Any]] = field(default_factory=list)

    def peer(self, *kinds: str, **options: Any) -> Peer:
        """A peer with a connection of its own."""
        return Peer.join(self.connect(), *kinds, **options)

    def background(
        self, work: Callable[..., Result], *arguments: Any, **options: Any
    ) -> Future[Result]:
        """Run `work` in a thread."""
        future = self.pool.submit(work, *arguments, **options)
        self._works.append(future)
        return future

    def is_waiting(self, session: Connection) -> bool:
        """Whether that session waits for a lock that another one holds."""
        query = "select cardinality(pg_blocking_pids(%s)) > 0"
        return bool(value(self.db, query, session.info.backend_pid))

    def until_waiting(self, session: Connection) -> None:
        """Return as soon as that session waits for a lock; fail when nothing runs any more."""
        self.until(
            lambda: self.is_waiting(session) or all(work.done() for work in self._works),
            "a session to wait for a lock",
        )
        assert self.is_waiting(session), "it ended without waiting for a lock"

    def until_waiting_or_done(self, session: Connection, work: Future[Any]) -> None:
        """Return as soon as that session waits for a lock, or has finished its work."""
        self.until(lambda: work.done() or self.is_waiting(session), "a session to wait or finish")

    def waits_long(self, work: Future[Any]) -> bool:
        """Whether a session waits for a lock for two seconds; otherwise the work ends.

        A busy machine makes the work slow, but not its waits for locks.
        """
        began, looks, deadline = 0.0, 0, time.monotonic() + DEADLINE * 2
        while not work.done():
            assert time.monotonic() < deadline, "the work does not end, and waits for no lock"
            if not value(self.db, _A_SESSION_WAITS):
                looks = 0
            elif looks == 0:
                began, looks = time.monotonic(), 1
            else:
                looks += 1
                if looks > LOOKS and time.monotonic() - began > LONG_WAIT:
                    return True
            run(self.db, "select pg_sleep(0.002)")
        return False

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Ask again and again, at most for DEADLINE seconds."""
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, f"waited {DEADLINE} s in vain for {what}"
            run(self.db, "select pg_sleep(0.002)")


def result(work: Future[Result]) -> Result:
    """The result of background work, which must come."""
    return work.result(timeout=DEADLINE * 2)


@dataclass(frozen=True)
class Patch:
    """A textual change of the shipped SQL that takes one safeguard out."""

    file: str
    snippet: str
    replacement: str
    times: int = 1

    def changed(self, text: str) -> str:
        """The changed text; a snippet that is no longer there is an error, not silence."""
        found = text.count(self.snippet)
        assert found == self.times, (
            f"{self.file} has {self.snippet!r} {found} times, not {self.times}: renew this patch"
        )
        return text.replace(self.snippet, self.replacement)


def apply_patches(db: Connection, patches: Iterable[Patch]) -> None:
    """Apply the shipped files with these changes."""
    texts: dict[str, str] = {}
    for patch in patches:
        text = texts.get(patch.file) or (SQL_FOLDER / patch.file).read_text()
        texts[patch.file] = patch.changed(text)
    for text in texts.values():
        db.execute(text.encode())


def unknown_token() -> UUID:
    """A token that no claim ever had."""
    return uuid4()


def refusal(db: Connection, statement: str, *arguments: object) -> tuple[str, str]:
    """The SQLSTATE and the words with which a statement is refused; empty if it is not."""
    try:
        with db.transaction():
            run(db, statement, *arguments)
    except psycopg.DatabaseError as refused:
        return refused.sqlstate or "", str(refused)
    return "", ""
