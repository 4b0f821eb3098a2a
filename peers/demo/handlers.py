"""The demo's app: count what a tree of Python files defines, package by package.

One task a file, one a package that waits for its files, one report that waits for the packages:

    index_file("…/json/decoder.py") ─┐
    index_file("…/json/encoder.py") ─┼─► index_package("json") ─┐
    …                               ─┘                          ├─► report()
                                         index_package("email") ─┘
"""

import ast
import warnings
from collections import Counter
from pathlib import Path
from typing import TypedDict

from peers import current_task, task
from peers.demo.ledger import recorded


class Counts(TypedDict):
    """What files define."""

    files: int
    lines: int
    classes: int
    functions: int


# A file that does not parse raises, and an exception is all that a failure takes: the task is tried
# again after a random part of 0.2 s, then of 0.4 s, and after the third attempt it is dead.
@task("demo.index_file", max_attempts=3, backoff=0.2, timeout=60)
@recorded
def index_file(path: str) -> Counts:
    """Parse one file. Raises what `ast.parse` raises."""
    source = Path(path).read_bytes()
    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse(source, filename=path)
    nodes = Counter(type(node) for node in ast.walk(tree))
    functions = nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef]
    return Counts(
        files=1, lines=len(source.splitlines()), classes=nodes[ast.ClassDef], functions=functions
    )


# A child reads what its parents returned. This one runs even if some of them are dead: its edges
# say on_parent_failure="run" (see submit.py), and `state` tells which parents are.
@task("demo.index_package", priority=50)
@recorded
def index_package(package: str) -> dict[str, object]:
    """Add up the files of one package: the parents of this task."""
    parents = current_task().parents()
    counts = [parent.result for parent in parents if parent.state == "completed"]
    return {"package": package, "unparsed": len(parents) - len(counts), **_total(counts)}


@task("demo.report", priority=50)
@recorded
def report() -> dict[str, object]:
    """Add up the packages."""
    packages = [parent.result for parent in current_task().parents()]
    unparsed = sum(package["unparsed"] for package in packages)
    return {"unparsed": unparsed, "packages": packages, **_total(packages)}


def _total(counts: list[dict[str, int]]) -> dict[str, int]:
    names = ("files", "lines", "classes", "functions")
    return {name: sum(count[name] for count in counts) for name in names}
