"""Overhead: tasks that only wait, many at once, on one peer. The ideal has no gap between them."""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.bench import Bench, unfinished
from benchmarks.processes import Processes
from benchmarks.server import Connection, connect, tidy
from benchmarks.systems.peers import ASYNC_HANDLERS, HANDLERS
from benchmarks.workloads import bare_waits
from benchmarks.workloads.draining import wait_for

_WARM_UPS: Final = 3
_WARM_UP_TASKS: Final = 20
"""Of each slot."""


class Case(NamedTuple):
    """So many handlers at once, each of which waits for so long."""

    slots: int
    milliseconds: float
    sync: bool


CASES: Final = (
    Case(8, 1, sync=True),
    Case(8, 10, sync=True),
    Case(8, 100, sync=True),
    Case(8, 28.2, sync=True),
    Case(64, 28.2, sync=False),
    Case(256, 28.2, sync=False),
)


def measure(bench: Bench) -> None:
    """Measure the ideal time divided by the real one, and the same for waits without tasks."""
    for case in CASES:
        with bench.failures_of("overhead", bench.peers):
            tasks = round(bench.sizes.overhead_seconds * case.slots * 1000 / case.milliseconds)
            seconds = _run(bench, case, tasks)
            ideal = tasks * case.milliseconds / 1000 / case.slots
            bare = bare_waits.efficiency(
                case.slots, case.milliseconds / 1000, bench.sizes.overhead_seconds, sync=case.sync
            )
            bench.add(
                "overhead", bench.peers, **case._asdict(), tasks=tasks, seconds=round(seconds, 3),
                efficiency=round(ideal / seconds, 4), bare=round(bare, 4),
            )  # fmt: skip


def _run(bench: Bench, case: Case, tasks: int) -> float:
    """Return the seconds from the first claim to the last outcome."""
    peers = bench.peers
    app = HANDLERS if case.sync else ASYNC_HANDLERS
    options = [f"--app={app}", f"--queues=default={case.slots}"]
    records = bench.starts().folder
    with (
        bench.database(peers) as url,
        connect(url) as connection,
        peers.workers(url, 1, records, *options) as peer,
    ):
        for _ in range(_WARM_UPS):
            _submit(connection, case, _WARM_UP_TASKS * case.slots)
            _await_end(bench, url, peer)
        connection.execute("select peers.pause('default')")
        _submit(connection, case, tasks)
        tidy(url)
        connection.execute("select peers.resume('default')")
        _await_end(bench, url, peer)
        [(count, seconds)] = connection.execute(
            "select count(*), extract(epoch from max(finished_at) - min(started_at))::float"
            " from (select * from peers.task where state = 'completed' and attempt = 1"
            "       order by id desc limit %s) t",
            [tasks],
        ).fetchall()
    if count != tasks:
        raise RuntimeError(f"{count} of {tasks} tasks were completed at their first attempt")
    return float(seconds)


def _submit(connection: Connection, case: Case, tasks: int) -> None:
    row = f'bench.wait\t{{"seconds": {case.milliseconds / 1000}}}\n'
    with connection.cursor().copy("copy peers.task (kind, args) from stdin") as copy:
        copy.write(row * tasks)


def _await_end(bench: Bench, url: str, peer: Processes) -> None:
    ask = unfinished(url, bench.peers)
    wait_for(lambda: not ask(), peer)
