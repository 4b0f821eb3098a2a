"""Prevent an output from replacing its own input or model, or the files of a run."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from peers.predict.atomic_files import destination
from peers.predict.errors import OutputError
from peers.predict.spec import MANIFEST_NAME, PARTS_SUFFIX


def refuse_sources(output: Path, *, input: str, model: str) -> None:
    """Raise OutputError if writing `output` would replace the input, the model or a run's files.

    Links are followed, and --overwrite makes no difference. `input` and `model` are as the user
    named them: a file, a folder, a pattern, or something that is no path at all.
    """
    for name, what in ((input, "input"), (model, "model")):
        for source in _files(name):
            if _is_same(output, source):
                raise OutputError(
                    f"the output {output} is the {what} {source}: writing it would destroy the "
                    f"{what}",
                    "Name another --output.",
                )
            if source.is_dir() and _is_within(output, source):
                raise OutputError(
                    f"the output {output} is in the {what} folder {source}, and would become "
                    f"part of the {what}",
                    "Name an --output outside of it.",
                )
        if _matches(output, name):
            raise OutputError(
                f"the output {output} matches the pattern {name}, and would become part of the "
                f"{what}",
                "Name an --output elsewhere, so that the same command finds the same input.",
            )
    for folder in destination(output.absolute()).resolve().parents:
        if folder.parent.name.endswith(PARTS_SUFFIX) and (folder / MANIFEST_NAME).exists():
            raise OutputError(
                f"the output {output} is in {folder}, the folder of a run's parts",
                "Name an --output elsewhere.",
            )


def _files(name: str) -> Iterator[Path]:
    """Return the files and folders that a name matches; none for a URL or `module:callable`."""
    path = Path(name).expanduser()
    if _exists(path):
        yield path
    elif glob.has_magic(name):
        yield from map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207  # takes absolute patterns


def _matches(output: Path, name: str) -> bool:
    """Return whether a pattern matches the output once it is written."""
    path = Path(name).expanduser().absolute()
    return glob.has_magic(name) and not _exists(path) and fnmatch(str(output.absolute()), str(path))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a path, or with a NUL: not a path
        return False


def _is_same(output: Path, source: Path) -> bool:
    """Return whether both paths are the same file, through symbolic and hard links."""
    try:
        return output.samefile(source)
    except OSError:  # the output does not exist yet
        return os.path.realpath(output) == os.path.realpath(source)


def _is_within(output: Path, folder: Path) -> bool:
    parents = {Path(os.path.realpath(output)), Path(os.path.realpath(output.parent)) / output.name}
    return any(Path(os.path.realpath(folder)) in place.parents for place in parents)
