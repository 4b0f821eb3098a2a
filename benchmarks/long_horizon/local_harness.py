"""Run the harness's own code with a Postgres of this machine in the place of its container.

This program runs in the harness's environment, not in ours. It replaces what calls Docker and
nothing else: starting and stopping Postgres, and starting the adapter. Two things are left out. The
wheel's Postgres has no pgstattuple, whose figures no verdict uses, and the plots are not drawn.

    python local_harness.py ORDER ARGUMENTS…

ORDER is a JSON object: see `Order`. The other arguments are those of the harness's `run` command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TypedDict

import psycopg
from bench_harness import adapters, orchestrator  # type: ignore[import-not-found]


class Order(TypedDict):
    """What the harness has to know of this machine."""

    urls: dict[str, str]
    """The URL of each database."""
    results: str
    """The folder for the results."""
    stop_postgres: list[str]
    start_postgres: list[str]
    adapter: list[str]
    bench_dir: str
    """The folder of adapter.json."""


def main() -> int:
    """Run one scenario."""
    order: Order = json.loads(sys.argv[1])

    def url(database: str, host: str = "") -> str:  # noqa: ARG001  # the harness's signature
        return order["urls"][database]

    def launch(manifest: Any, overrides: dict[str, str]) -> Any:
        environment = adapters._base_env(manifest, overrides)  # noqa: SLF001
        return adapters.LaunchSpec(argv=order["adapter"], env=environment)

    def nothing(*_: object, **__: object) -> None:
        pass

    def command(argv: list[str]) -> Any:
        return lambda _image: subprocess.run(argv, check=True, stdout=sys.stderr)

    adapters.pg_url = orchestrator.pg_url = url
    adapters.ADAPTERS["peers"] = adapters.AdapterEntry(Path(order["bench_dir"]), nothing, launch)
    orchestrator.RESULTS_ROOT = Path(order["results"])
    orchestrator.start_postgres = orchestrator.stop_postgres = nothing
    orchestrator._compose_stop_postgres = command(order["stop_postgres"])  # noqa: SLF001
    orchestrator._compose_start_postgres = command(order["start_postgres"])  # noqa: SLF001
    orchestrator.preflight_database = lambda manifest, recreate=False: _create(  # noqa: ARG005
        url("postgres"), manifest.db_name
    )
    orchestrator.MetricsDaemon.phase_boundary_snapshot = nothing
    orchestrator.render_all = orchestrator.write_interactive_report = nothing
    return int(orchestrator.main(["run", "--systems=peers", *sys.argv[2:]]))


def _create(admin_url: str, database: str) -> None:
    with psycopg.connect(admin_url, autocommit=True) as connection:
        connection.execute(f'create database "{database}"'.encode())


if __name__ == "__main__":
    status = main()
    # the harness's thread may still be writing to the pipe of an adapter that has ended
    sys.stdout.flush()
    os._exit(status)
