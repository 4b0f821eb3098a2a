"""Find, list and clean the runs of a database."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import NoSuchRun, RunState, StorageFailed
from peers.predict.outputs import OUTPUT_DIGEST_NAME
from peers.predict.run import queries
from peers.predict.run.summarize import summarize
from peers.predict.spec import MANIFEST_NAME, Manifest, load_manifest, output_of

if TYPE_CHECKING:
    from peers.predict.run.database import Connection

_KEPT_FILES: Final = frozenset({MANIFEST_NAME, OUTPUT_DIGEST_NAME})
"""A few KiB, from which `status` and the same command still know the run and its output."""


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in the list. Figures that are unknown without its manifest are None."""

    name: str | None
    run: str
    state: str
    rows: int | None
    predicted: int | None
    dead: int | None
    started_at: datetime
    age: timedelta
    ended_ago: timedelta | None
    output: str
    manifest: str
    graph: int

    def as_json(self) -> dict[str, Any]:
        """Return the values for programs."""
        left_out = {"age", "ended_ago", "manifest"}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


@dataclass(frozen=True, slots=True)
class CleanedRun:
    """A run, and the size of the files that were or would be deleted."""

    name: str | None
    run: str
    state: str
    folder: str
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the values for programs."""
        return asdict(self)


def manifest_of(connection: Connection, name: str) -> Manifest:
    """Return the manifest of the newest run with this name or id. Raises NoSuchRun."""
    found = queries.find_graph(connection, name)
    if found is None:
        raise NoSuchRun(f"there is no run {name!r}", "`peers predict list` shows all runs.")
    return load_manifest(found["manifest"])


def conflicting_run(connection: Connection, manifest: Manifest) -> str | None:
    """Return another run that is under way and will write the same file; None if there is none."""
    output = os.path.realpath(manifest.output)
    for found in queries.live_assemblies(connection, other_than=manifest.run):
        if os.path.realpath(output_of(found["manifest"])) == output:
            return str(found["run"])
    return None


def list_runs(connection: Connection, limit: int | None) -> tuple[int, list[ListedRun]]:
    """Return the number of runs, and the newest ones."""
    found = queries.newest_graphs(connection, limit)
    listed = [_listed(connection, graph) for graph in found]
    return (found[0]["total"] if found else 0), [run for run in listed if run is not None]


def clean(
    connection: Connection, *, name: str | None, older_than: timedelta | None, dry_run: bool
) -> list[CleanedRun]:
    """Delete the parts and snapshots of the run with this name, or of all runs that are done.

    Outputs stay, wherever they are, and so do the files of a run that is under way. The same
    predict command makes parts again if it needs them. Raises NoSuchRun, and RunState for a named
    run that is under way.
    """
    _, runs = list_runs(connection, None)
    outputs = {os.path.realpath(run.output) for run in runs}
    if name is not None:
        wanted = manifest_of(connection, name).run
        runs = [run for run in runs if run.run == wanted]
    else:
        runs = [run for run in runs if run.state == "done" and _is_older(run, older_than)]
    cleaned = []
    for run in runs:
        manifest = _trusted_manifest(run.manifest, run.run)
        if manifest is None or manifest.folder.is_symlink():
            continue
        if queries.live_tasks(connection, run.graph):
            if name is not None:
                raise RunState(
                    f"run {run.run} is under way and needs its parts",
                    f"Wait for it, or cancel it: peers predict cancel {run.run}.",
                )
            continue
        found = list(_removable(manifest.folder, outputs))
        if found:
            size = sum(map(_size, found))
            cleaned.append(CleanedRun(run.name, run.run, run.state, str(manifest.folder), size))
        if not dry_run:
            for path in found:
                _remove(path)
    return cleaned


def _listed(connection: Connection, graph: dict[str, Any]) -> ListedRun | None:
    """Return a run in the list; None if its tasks are gone."""
    assemblies = queries.assemblies(connection, graph["id"])
    if not assemblies:
        return None
    last = assemblies[-1]
    written, state = last.written or {}, "done" if last.written else last.state
    figures = written
    manifest = _trusted_manifest(graph["manifest"], graph["run"])
    if manifest is not None and not written:
        summary = summarize(connection, manifest, graph["id"])
        assert summary is not None
        figures, state = summary.as_json(), summary.state
    return ListedRun(
        name=graph["name"], run=graph["run"], state=state, rows=figures.get("rows"),
        predicted=figures.get("predicted"), dead=figures.get("dead"),
        started_at=graph["created_at"], age=graph["age"], ended_ago=last.ended_ago,
        output=output_of(graph["manifest"]), manifest=graph["manifest"], graph=graph["id"],
    )  # fmt: skip


def _trusted_manifest(path: str, run: str) -> Manifest | None:
    """Return the manifest if it is this run's and in the run's own folder; None if not.

    Any role that may submit tasks can create a graph that names any path.
    """
    try:
        manifest = load_manifest(path)
    except StorageFailed:
        return None
    return manifest if manifest.run == run and manifest.path == Path(path) else None


def _is_older(run: ListedRun, older_than: timedelta | None) -> bool:
    return older_than is None or (run.ended_ago is not None and run.ended_ago > older_than)


def _removable(folder: Path, outputs: set[str]) -> Iterator[Path]:
    """Yield the files of a run's folder, except folders that hold an output of any run."""
    for path in sorted(folder.iterdir()):
        if path.name in _KEPT_FILES:
            continue
        inside = os.path.realpath(path) + os.sep
        if not any(f"{output}{os.sep}".startswith(inside) for output in outputs):
            yield path


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(_size(inside) for inside in path.iterdir())


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path)
