"""What came of it: figures from the database and from the ledger, held against each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    import psycopg

    from peers.demo.ledger import Entry
    from peers.demo.submit import Submitted

_TASKS = """
select id, kind, state::text, token::text,
       extract(epoch from created_at)::float8 as created,
       extract(epoch from started_at)::float8 as started,
       extract(epoch from finished_at)::float8 as finished
from peers.task
where id between %(first)s and %(last)s and queue = %(queue)s
"""
_FAILURES = """
select f.task_id, f.token::text, f.error_type, f.peer_id
from peers.failure f join peers.task t on t.id = f.task_id
where t.id between %(first)s and %(last)s and t.queue = %(queue)s
"""
_EDGES = """
select e.parent_id, e.child_id
from peers.dependency e join peers.task t on t.id = e.child_id
where t.id between %(first)s and %(last)s and t.queue = %(queue)s
"""
_RESULT = "select result from peers.task where id = %s"
LOST = "lost"


@dataclass(frozen=True)
class Figures:
    """The run in numbers.

    lost: tasks that did not end, and results that are missing in the report. reclaimed: leases that
    were taken back from a peer that had gone. duplicates: outcomes or runs that count twice, and
    outcomes of runs that never were. early: children that ran before a parent had ended. repeated:
    runs to the end whose outcome was lost with their peer, and which were therefore done again (at
    least once is the promise). seconds: from the submission to the last end, by the database.
    """

    tasks: int
    completed: int
    dead: int
    cancelled: int
    lost: int
    reclaimed: int
    duplicates: int
    early: int
    repeated: int
    seconds: float
    peers: int


class Task(NamedTuple):
    """A task as the database has it; times are seconds."""

    id: int
    kind: str
    state: str
    token: str | None
    created: float
    started: float | None
    finished: float | None


class Failure(NamedTuple):
    """A failed attempt."""

    task_id: int
    token: str
    error_type: str
    peer_id: UUID


def gather(
    connection: psycopg.Connection[Any], submitted: Submitted, ledger: Sequence[Entry], peers: int
) -> Figures:
    """Compute the figures of a run that is over."""
    tasks = [Task(*row) for row in connection.execute(_TASKS, submitted.where)]
    failures = [Failure(*row) for row in connection.execute(_FAILURES, submitted.where)]
    edges = connection.execute(_EDGES, submitted.where).fetchall()
    states = Counter(task.state for task in tasks)
    ended = states["completed"] + states["dead"] + states["cancelled"]
    finished = [task.finished for task in tasks if task.finished is not None]
    return Figures(
        tasks=submitted.total,
        completed=states["completed"],
        dead=states["dead"],
        cancelled=states["cancelled"],
        lost=submitted.total - ended + _unreported(connection, submitted, tasks),
        reclaimed=sum(failure.error_type == LOST for failure in failures),
        duplicates=duplicates(tasks, failures, ledger),
        early=early(tasks, edges, ledger),
        repeated=len(ledger) - len({entry.task_id for entry in ledger}),
        seconds=round(max(finished, default=0.0) - min(task.created for task in tasks), 2),
        peers=peers,
    )


def duplicates(tasks: Iterable[Task], failures: Iterable[Failure], ledger: Sequence[Entry]) -> int:
    """Leases with two outcomes; leases run to the end twice; completions without a run."""
    completed = [(task.id, task.token) for task in tasks if task.state == "completed"]
    failed = [(failure.task_id, failure.token) for failure in failures]
    runs = [(entry.task_id, entry.token) for entry in ledger]
    never_run = set(completed) - set(runs)
    return _repetitions(chain(completed, failed)) + _repetitions(runs) + len(never_run)


def _repetitions(leases: Iterable[tuple[int, str | None]]) -> int:
    return sum(times - 1 for times in Counter(leases).values())


def early(tasks: Iterable[Task], edges: Iterable[Any], ledger: Iterable[Entry]) -> int:
    """Edges whose child started before the parent's end, by the clock or by the ledger's order."""
    known = {task.id: task for task in tasks}
    place = {(entry.task_id, entry.token): number for number, entry in enumerate(ledger)}
    first: dict[int, int] = {}
    for (task_id, _), number in place.items():
        first.setdefault(task_id, number)
    count = 0
    for parent_id, child_id in edges:
        parent, child = known[parent_id], known[child_id]
        if child.started is None:
            continue
        by_clock = parent.finished is None or child.started < parent.finished
        entry = place.get((parent.id, parent.token or ""))
        by_order = entry is not None and first.get(child.id, entry + 1) < entry
        count += by_clock or by_order
    return count


def _unreported(
    connection: psycopg.Connection[Any], submitted: Submitted, tasks: Iterable[Task]
) -> int:
    """By how many files the report differs from the tasks that say they are completed."""
    row = connection.execute(_RESULT, [submitted.report_id]).fetchone()
    counted = row[0]["files"] if row and row[0] else 0
    done = sum(task.kind == "demo.index_file" and task.state == "completed" for task in tasks)
    return abs(done - counted)
