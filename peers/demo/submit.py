"""What there is to do, and how it is submitted: one graph, in one transaction."""

from __future__ import annotations

import sysconfig
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers import graph
from peers.demo.handlers import index_file, index_package, report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import psycopg

# Not of the standard library: what pip put beside it.
FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages"})
TOP_LEVEL = "(top level)"


@dataclass(frozen=True)
class Submitted:
    """The tasks of this run: those of `queue` among the ids from `first` to `last`."""

    queue: str
    first: int
    last: int
    report_id: int
    files: int
    packages: int

    @property
    def total(self) -> int:
        """How many tasks that are: the files, the packages, the report."""
        return self.files + self.packages + 1

    @property
    def where(self) -> Mapping[str, object]:
        """Parameters for SQL: %(queue)s, %(first)s and %(last)s."""
        return {"queue": self.queue, "first": self.first, "last": self.last}


def library() -> Path:
    """Where the standard library of this Python is."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def sources(root: Path, limit: int | None = None) -> list[Path]:
    """The Python files below `root`, in order; with a limit that many, spread evenly."""
    found = sorted(
        path
        for path in root.rglob("*.py")
        if path.is_file() and FOREIGN_FOLDERS.isdisjoint(path.relative_to(root).parts)
    )
    if limit is None or limit >= len(found):
        return found
    return [found[place * len(found) // limit] for place in range(limit)]


def submit(
    connection: psycopg.Connection[Any], files: Sequence[Path], root: Path, queue: str
) -> Submitted:
    """Submit one task a file, one a package after its files, and the report after the packages.

    The queue is for this run alone, so that nobody else's peers or tasks come between.
    """
    per_package: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files:
        per_package[".".join(path.relative_to(root).parent.parts) or TOP_LEVEL].append(path)

    with graph(connection) as g:
        roll_ups = []
        for package, members in per_package.items():
            parents = [g.add(index_file.options(queue=queue), path=str(path)) for path in members]
            # a file that does not parse must not stop its package
            roll_up = index_package.options(queue=queue).after(parents, on_parent_failure="run")
            roll_ups.append(g.add(roll_up, package=package))
        end = g.add(report.options(queue=queue).after(roll_ups))

    ids = g.ids.values()
    return Submitted(queue, min(ids), max(ids), end.id, len(files), len(per_package))
