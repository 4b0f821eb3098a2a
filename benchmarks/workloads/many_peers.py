"""Many peers: the same tasks with ever more peers on one machine."""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.processes import Processes
from benchmarks.server import Connection, connect, tidy
from benchmarks.workloads.draining import await_drained, drain, wait_for

_ALIVE = "select count(*) from peers.peer_status where alive"


def measure(bench: Bench) -> None:
    """Measure tasks a second, once with the start-up of the peers and once without."""
    for peers in bench.sizes.peers:
        with bench.failures_of("many peers", bench.peers):
            _starting(bench, peers)
        with bench.failures_of("many peers", bench.peers):
            _running(bench, peers)


def _starting(bench: Bench, peers: int) -> None:
    """Start the peers when all tasks wait: the later ones start while the first ones work."""
    tasks = bench.sizes.peer_tasks
    with bench.filled(bench.peers, tasks) as url:
        drained = drain(bench, bench.peers, url, tasks, peers)
        bench.add("many peers", bench.peers, peers=peers, running=False, **drained.figures())


def _running(bench: Bench, peers: int) -> None:
    """Let the peers join first; then open the queue."""
    system, tasks, starts = bench.peers, bench.sizes.peer_tasks, bench.starts()
    with bench.database(system) as url, connect(url) as connection:
        connection.execute("select peers.pause('default')")
        system.call(url, "bulk", 0, tasks)
        tidy(url)
        with system.workers(url, peers, starts.folder) as processes:
            _await_peers(connection, peers, processes)
            connection.execute("select peers.resume('default')")
            drained = await_drained(bench, system, url, tasks, starts, processes)
        bench.add("many peers", system, peers=peers, running=True, **drained.figures())


def _await_peers(connection: Connection, peers: int, processes: Processes) -> None:
    wait_for(lambda: connection.execute(_ALIVE).fetchall() == [(peers,)], processes)
