"""Print what came out: the library, the dead letters, the figures, and where to look further."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TextIO

from peers import find_in, get_in

if TYPE_CHECKING:
    import psycopg

    from peers.demo.submit import Submitted

_PACKAGES_SHOWN: Final = 8


def report(
    out: TextIO, connection: psycopg.Connection[Any], submitted: Submitted,
    figures: dict[str, Any], psql: str,
) -> None:  # fmt: skip
    """Print all parts to `out`."""

    def say(line: str) -> None:
        print(line, file=out, flush=True)

    library = get_in(connection, submitted.report_id).result
    say(_library(library) if library else "\nThere is no report: its task did not complete.")
    dead = find_in(connection, graph=submitted.graph_id, state="dead")
    if dead:
        say("\nDead letters; the tasks that depend on them still ran:")
    for task in dead:
        say(f"  task {task.id}, {task.args.get('path', task.kind)}\n    {task.failure}")
    say(
        "\n{tasks} tasks: {completed} completed, {dead} dead, {seconds:.1f} s on {peers} peers\n"
        "the database compared with the handlers' own record: {lost} lost, {duplicates} "
        "duplicates,\n{early} children started early, {reclaimed} reclaimed, {repeated} repeated"
        "".format(**figures)
    )
    say(
        f"\nThis run is graph {submitted.graph_id}. To look around:\n"
        f"  {psql}\n"
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
