"""The demo's graph: one task for each file, one for each package, one report."""

from __future__ import annotations

import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from peers import graph
from peers.demo.handlers import index_file, index_package, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

_INSTALLED_BY_PIP: Final = frozenset({"site-packages", "dist-packages"})


class Submitted(NamedTuple):
    """The graph of this run, its own queue, and the id of its last task."""

    graph_id: int
    queue: str
    report_id: int
    files: int
    packages: int

    @property
    def tasks(self) -> int:
        """How many tasks the graph has."""
        return self.files + self.packages + 1


def library() -> Path:
    """Return the folder of this Python's standard library."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def sources(root: Path, limit: int | None = None) -> list[Path]:
    """Return the Python files below `root` in order; with a limit, that many, spread evenly."""
    found = sorted(
        path
        for path in root.rglob("*.py")
        if path.is_file() and _INSTALLED_BY_PIP.isdisjoint(path.relative_to(root).parts)
    )
    if limit is None or limit >= len(found):
        return found
    return [found[number * len(found) // limit] for number in range(limit)]


def submit(
    connection: psycopg.Connection[Any], files: Sequence[Path], root: Path, queue: str
) -> Submitted:
    """Submit the whole graph in one transaction.

    The queue belongs to this run alone, so that no other peer or task interferes.
    """
    packages: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files:
        packages[".".join(path.relative_to(root).parent.parts) or "(top level)"].append(path)

    with graph(connection, name="demo") as g:
        in_queue = index_file.options(queue=queue)
        indexed = []
        for package, members in packages.items():
            parents = [g.add(in_queue, path=str(path)) for path in members]
            # "run": a file that does not parse must not stop its package
            child = index_package.options(queue=queue).after(parents, on_parent_failure="run")
            indexed.append(g.add(child, package=package))
        last = g.add(report.options(queue=queue).after(indexed))
    return Submitted(g.id, queue, last.id, len(files), len(packages))
