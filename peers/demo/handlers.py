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
    """What files define; the result of `index_file`."""

    files: int
    lines: int
    classes: int
    functions: int


class Package(Counts):
    """The files of one package together; `unparsed` of them are not counted."""

    package: str
    unparsed: int


class Report(Counts):
    """Everything together, and each package."""

    unparsed: int
    packages: list[Package]


# A file that does not parse raises, and an exception is all that a failure takes: the task is tried
# again after a random part of 0.2 s, then of 0.4 s, and after the third attempt it is dead.
@task("demo.index_file", max_attempts=3, backoff=0.2, timeout=60)
@recorded
def index_file(path: str) -> Counts:
    """Parse one file; raises what `ast.parse` raises."""
    source = Path(path).read_bytes()
    with warnings.catch_warnings(action="ignore"):
        tree = ast.parse(source, filename=path)
    nodes = Counter(type(node) for node in ast.walk(tree))
    return {
        "files": 1,
        "lines": len(source.splitlines()),
        "classes": nodes[ast.ClassDef],
        "functions": nodes[ast.FunctionDef] + nodes[ast.AsyncFunctionDef],
    }


# A child reads what its parents returned. This one runs even if some of them are dead: its edges
# say on_parent_failure="run" (see submit.py), and `state` tells which.
@task("demo.index_package", priority=50)
@recorded
def index_package(package: str) -> Package:
    """Add up the files of one package: the parents of this task."""
    parents = current_task().parents()
    counts = [parent.result for parent in parents if parent.state == "completed"]
    unparsed = len(parents) - len(counts)
    return {"package": package, "unparsed": unparsed, **_total(counts)}


@task("demo.report", priority=50)
@recorded
def report() -> Report:
    """Add up the packages."""
    packages: list[Package] = [parent.result for parent in current_task().parents()]
    unparsed = sum(package["unparsed"] for package in packages)
    return {"unparsed": unparsed, "packages": packages, **_total(packages)}


def _total(counts: list[Counts] | list[Package]) -> Counts:
    return {
        "files": sum(count["files"] for count in counts),
        "lines": sum(count["lines"] for count in counts),
        "classes": sum(count["classes"] for count in counts),
        "functions": sum(count["functions"] for count in counts),
    }
