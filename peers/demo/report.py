"""Print what came out: the library, the dead letters, the figures, and where to look further."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from peers.demo.database import Database
    from peers.demo.submit import Submitted

_PACKAGES_SHOWN: Final = 8
_REPORT: Final = "select result from peers.task where id = %s"


def report(out: TextIO, database: Database, submitted: Submitted, figures: dict[str, Any]) -> None:
    """Print all parts to `out`."""

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    [(library,)] = database.connection.execute(_REPORT, [submitted.report_id]).fetchall()
    say(_library(library) if library else "\nThere is no report: its task did not complete.")
    command = ["dead", "list", "--queue", submitted.queue]
    say(f"\nDead letters (`peers {' '.join(command)}`); the tasks that depend on them still ran:")
    subprocess.run(
        [sys.executable, "-m", "peers", *command, "--database-url", database.url],
        stdout=out, check=True,
    )  # fmt: skip
    say(
        "\n{tasks} tasks: {completed} completed, {dead} dead, {seconds:.1f} s on {peers} peers\n"
        "the database compared with the handlers' own record: {lost} lost, {duplicates} "
        "duplicates,\n{early} children started early, {reclaimed} reclaimed, {repeated} repeated"
        "".format(**figures)
    )
    say(
        f"\nThis run is graph {submitted.graph_id}. To look around:\n"
        f"  {database.psql_command}\n"
        "      \\x on\n"
        "      table peers.graph_status; table peers.dead_letter; table peers.peer_status;\n"
        f"      select peers.explain({submitted.report_id});"
    )


def _library(report: dict[str, Any]) -> str:
    packages = sorted(report["packages"], key=lambda package: package["lines"], reverse=True)
    rows = [(package["package"], package) for package in packages[:_PACKAGES_SHOWN]]
    rows.append((f"all {len(packages)} packages", report))
    lines = [f"\n{'package':<32}{'files':>7}{'lines':>10}{'classes':>9}{'functions':>11}"]
    for name, row in rows:
        lines.append(
            f"{name:<32}{row['files']:>7,}{row['lines']:>10,}{row['classes']:>9,}"
            f"{row['functions']:>11,}"
        )
    return "\n".join(lines)
