"""`peers predict clean`: delete what runs that are over keep beside their outputs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from peers.predict.errors import RunState
from peers.predict.outputs import OUTPUT_DIGEST_NAME
from peers.predict.run.command import manifest_of
from peers.predict.run.listing import ListedRun, list_runs, trusted_manifest
from peers.predict.run.live_tasks import live_tasks
from peers.predict.spec import MANIFEST_NAME

if TYPE_CHECKING:
    from peers.predict.run.record import Connection

_KEPT: Final = frozenset({MANIFEST_NAME, OUTPUT_DIGEST_NAME})
"""A few KiB, by which `status` and the same command still know the run and its output."""


@dataclass(frozen=True, slots=True)
class CleanedRun:
    """A run, and how many bytes its parts have, or had."""

    name: str | None
    run: str
    state: str
    folder: str
    bytes: int

    def as_json(self) -> dict[str, Any]:
        """Return the values for programs."""
        return asdict(self)


def clean(
    connection: Connection, *, name: str | None, older_than: timedelta | None, dry_run: bool
) -> list[CleanedRun]:
    """Delete parts and snapshots of the run of this name, or of all runs that are done.

    Outputs stay, wherever they are, and so does what a run under way needs. The same predict
    command makes parts again if it has to. Raises NoSuchRun; RunState for a named run under way.
    """
    _, runs = list_runs(connection, None)
    outputs = {os.path.realpath(run.output) for run in runs}
    if name is not None:
        wanted = manifest_of(connection, name).run
        runs = [run for run in runs if run.run == wanted]
    else:
        runs = [run for run in runs if run.state == "done" and _is_old(run, older_than)]
    cleaned = []
    for run in runs:
        manifest = trusted_manifest(run.manifest, run.run)
        if manifest is None or manifest.folder.is_symlink():
            continue
        if live_tasks(connection, run.run):
            if name is not None:
                raise RunState(
                    f"run {run.run} is under way: its parts are needed",
                    f"Wait for it, or end it: peers predict cancel {run.run}.",
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


def _is_old(run: ListedRun, older_than: timedelta | None) -> bool:
    return older_than is None or (run.ended_ago is not None and run.ended_ago > older_than)


def _removable(folder: Path, outputs: set[str]) -> Iterator[Path]:
    """Yield what lies in a run's folder but for the outputs of all runs, at any depth."""
    for path in sorted(folder.iterdir()):
        if path.name in _KEPT:
            continue
        inside = os.path.realpath(path) + os.sep
        if not any(f"{place}{os.sep}".startswith(inside) for place in outputs):
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
