"""PgQueuer and Procrastinate, in a virtual environment of their own."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from benchmarks.systems.scratch import environment
from benchmarks.systems.system import System

PGQUEUER: Final = "PgQueuer"
PROCRASTINATE: Final = "Procrastinate"
_REQUIREMENTS: Final = ("pgqueuer[asyncpg]==1.6.0", "procrastinate==3.10.0", "uvloop==0.23.0")


def pgqueuer() -> System:
    """Install and describe PgQueuer."""
    folder = environment("python", _REQUIREMENTS)
    command = [str(folder / "bin" / "python"), "-m", "benchmarks.systems.pgqueuer_program"]
    return System(
        name=PGQUEUER,
        version=_version(folder, "pgqueuer"),
        settings="asyncpg, uvloop, batch_size 1000, durable tables (its default)",
        program=command,
        worker=[*command, "work"],
        unfinished="select exists (select from pgqueuer)",
        task_table="pgqueuer",
        share=0.6,
    )


def procrastinate() -> System:
    """Install and describe Procrastinate."""
    folder = environment("python", _REQUIREMENTS)
    command = [str(folder / "bin" / "python"), "-m", "benchmarks.systems.procrastinate_program"]
    return System(
        name=PROCRASTINATE,
        version=_version(folder, "procrastinate"),
        settings="psycopg, uvloop, concurrency 20, pool of 10 connections, LISTEN on",
        program=command,
        worker=[*command, "work"],
        unfinished=(
            "select exists (select from procrastinate_jobs where status in ('todo', 'doing'))"
        ),
        task_table="procrastinate_jobs",
        share=0.04,
    )


def _version(folder: Path, package: str) -> str:
    [packages] = folder.glob("lib/python*/site-packages")
    [distribution] = distributions(name=package, path=[str(packages)])
    return distribution.version
