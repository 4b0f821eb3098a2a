"""Peers, from this checkout."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Final

from benchmarks.systems import graph_shapes, program
from benchmarks.systems.system import System

NAME: Final = "Peers"
HANDLERS: Final = "benchmarks.systems.peers_handlers"
ASYNC_HANDLERS: Final = "benchmarks.systems.peers_async_handlers"


def run_command(*options: str, app: str = HANDLERS, slots: int = 1) -> list[str]:
    """Return the command of a peer."""
    return [sys.executable, "-m", "peers", "run", "--app", app, f"--queues=default={slots}",
            "--log-level=warning", *options]  # fmt: skip


def peers() -> System:
    """Describe Peers."""
    return System(
        name=NAME,
        version=version("peers"),
        settings="the defaults, with one worker process for each peer (--queues default=1)",
        program=[sys.executable, "-m", "benchmarks.systems.peers_program"],
        worker=run_command(),
        unfinished=(
            "select exists (select from peers.ready) or exists (select from peers.lease)"
            " or exists (select from peers.blocked)"
        ),
        task_table="peers.task",
        graphs=graph_shapes.SHAPES,
        graph_seconds=(
            "select extract(epoch from max(finished_at) - min(started_at))::float from peers.task"
            f" where (args ->> 'number')::bigint < {program.LOAD_NUMBERS}"
        ),
        url_variable="PEERS_DATABASE_URL",
    )
