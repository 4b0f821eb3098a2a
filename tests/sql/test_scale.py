"""Time grows with the size of a graph, not with its square, whatever plans a session has kept."""

from __future__ import annotations

import json
import time
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.world import problems, run, submit, value

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.server import Connection

SMALL, TIMES = 500, 8
MOST = 24  # a square would be 64 times the time; the machine is noisy
TRIES = 8
NANOSECONDS = 1e9

GRAPH = "select count(*) from peers.submit_graph(%s::jsonb)"
BOTTOM_UP = """
    with t as (insert into peers.task (kind) select 'a' from generate_series(1, %s) returning id),
         chain as (select id, lag(id) over (order by id desc) as parent from t)
    insert into peers.dependency (parent_id, child_id)
    select parent, id from chain where parent is not null
"""


def chain(db: Connection, size: int) -> int:
    """A fresh chain of tasks in which each child has a smaller id than its parent; its top."""
    run(db, BOTTOM_UP, size)
    top: int = value(db, "select max(id) from peers.task")
    return top


def one_statement(db: Connection, size: int) -> Callable[[], object]:
    """Tasks and edges from children to parents in one plain statement."""
    return lambda: chain(db, size)


def late_edge(db: Connection, size: int) -> Callable[[], object]:
    """An edge into an older task that has many below it."""
    edge = "insert into peers.dependency (parent_id, child_id) values (%s, %s)"
    top = chain(db, size)
    above = submit(db)
    return lambda: run(db, edge, above, top)


def late_edges(db: Connection, size: int) -> Callable[[], object]:
    """Many edges between older tasks in one statement."""
    run(db, "insert into peers.task (kind) select 'late' from generate_series(1, %s)", size)
    edges = (
        "insert into peers.dependency (parent_id, child_id) select t.id, lead(t.id, %s)"
        " over (order by t.id) from peers.task t where kind = 'late' and state = 'ready'"
        " and not exists (select from peers.dependency d where t.id in (d.parent_id, d.child_id))"
        " order by t.id limit %s"
    )
    return lambda: run(db, edges, size // 2, size // 2)


def cancellation(db: Connection, size: int) -> Callable[[], object]:
    """The top of a fresh chain is cancelled, and all below it."""
    top = chain(db, size)
    return lambda: run(db, "select peers.cancel(%s)", top)


def graph(db: Connection, size: int) -> Callable[[], object]:
    """A graph in which each node has two parents."""
    nodes = [{"name": f"n{n}", "kind": "a", "after": [*{f"n{n - 1}", f"n{n // 2}"}] if n else []}
             for n in range(size)]  # fmt: skip
    return lambda: run(db, GRAPH, json.dumps(nodes))


def keyed_graph(db: Connection, size: int) -> Callable[[], object]:
    """A graph of keyed nodes, all of which are there already."""
    nodes = [{"name": f"n{n}", "kind": "a", "idempotency_key": f"{size} {n}"} for n in range(size)]
    run(db, GRAPH, json.dumps(nodes))
    return lambda: run(db, GRAPH, json.dumps(nodes))


def graph_cancellation(db: Connection, size: int) -> Callable[[], object]:
    """A graph of short chains is paused, resumed and cancelled."""
    nodes = [{"name": f"n{n}", "kind": "a", "after": [f"n{n - 1}"] if n % 4 else []}
             for n in range(size)]  # fmt: skip
    run(db, GRAPH, json.dumps(nodes))
    made = value(db, "select max(id) from peers.graph")
    verbs = "select peers.pause_graph(%s), peers.resume_graph(%s), peers.cancel_graph(%s)"
    return lambda: run(db, verbs, made, made, made)


def many_names(db: Connection, size: int) -> Callable[[], object]:
    """A graph without any edge."""
    nodes = [{"name": f"n{n}", "kind": "a"} for n in range(size * 5)]
    return lambda: run(db, GRAPH, json.dumps(nodes))


def later_ones(db: Connection, size: int) -> Callable[[], object]:
    """Tasks for later, one by one."""

    def work() -> None:
        with db.transaction():
            for _ in range(size):
                run(db, "insert into peers.task (kind, scheduled_at) values ('a', 'tomorrow')")

    return work


def numbers(db: Connection, size: int) -> Callable[[], object]:
    """One task whose args are a long array."""
    args = json.dumps({"x": [0] * (size * 60)})
    return lambda: run(db, "insert into peers.task (kind, args) values ('a', %s::jsonb)", args)


CASES = [one_statement, late_edge, late_edges, cancellation, graph, keyed_graph,
         graph_cancellation, many_names, later_ones, numbers]  # fmt: skip


def forget_everything(db: Connection) -> None:
    """Empties the tables, unseen by the triggers."""
    with db.transaction():
        run(db, "set local session_replication_role = replica")
        for table in ("task", "dependency", "ready", "scheduled", "blocked"):
            run(db, f"delete from peers.{table}")


def clock_of(db: Connection) -> Callable[[], float]:
    """The CPU time of the session's server process, which other programs hardly change.

    The usual clock where the server runs on another machine or in a container.
    """
    process = Path("/proc", str(db.info.backend_pid))
    try:
        is_here = db.info.dbname in (process / "cmdline").read_text()
    except OSError:
        is_here = False
    if not is_here:
        return time.perf_counter
    return lambda: int((process / "schedstat").read_text().split()[0]) / NANOSECONDS


def seconds(clock: Callable[[], float], work: Callable[[], object]) -> float:
    """How long that takes."""
    start = clock()
    work()
    return clock() - start


@pytest.mark.parametrize("case", CASES)
def test_eight_times_the_size_takes_no_sixty_four_times_the_time(
    db: Connection, case: Callable[[Connection, int], Callable[[], object]]
) -> None:
    """In a session that has kept its plans from small calls, over tables not yet analyzed."""
    run(db, "alter table peers.task set (autovacuum_enabled = off)")
    run(db, "alter table peers.dependency set (autovacuum_enabled = off)")
    for _ in range(8):
        case(db, 4)()
    clock = clock_of(db)
    small = large = inf
    for _ in range(TRIES):
        forget_everything(db)
        # the shortest of each size is the one that the machine disturbed least
        small = min(small, seconds(clock, case(db, SMALL)))
        large = min(large, seconds(clock, case(db, SMALL * TIMES)))
        if large < MOST * small:
            break
    assert large < MOST * small
    assert problems(db) == []
