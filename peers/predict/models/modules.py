"""Find and import the Python modules of models."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from peers.predict.errors import ModelError
from peers.predict.models import digests

_imported: dict[str, str] = {}
"""The digest of each module's source at its first use: the code that this process runs."""


def find_source(module: str) -> Path:
    """Return a module's file. Imports the packages around it, not the module itself.

    Raises ModelError if there is no such module, or it has no file.
    """
    see_current_directory()
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:
        raise _not_importable(module, error) from error
    if spec is None:
        raise ModelError(
            f"There is no module {module}",
            f"It is searched in {Path.cwd()} and among the installed packages.",
        )
    if spec.origin is None or not Path(spec.origin).is_file():
        raise ModelError(f"{module} has no source file, so changes in it could not be noticed")
    return Path(spec.origin)


def import_unchanged(module: str, source: Path) -> ModuleType:
    """Import the module from its present file, and return it.

    Raises ModelError if the import fails, or if the file has changed since this process imported
    the module.
    """
    before = digests.of_file(source)
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        raise _not_importable(module, error) from error
    if _imported.setdefault(module, before) != digests.of_file(source):
        raise ModelError(
            f"{source} has changed after this worker imported it",
            "Restart the peers, so that they import it again.",
        )
    return imported


def see_current_directory() -> None:
    """Add the current directory to the path, as `python -m` does; a console script doesn't."""
    current = os.getcwd()  # noqa: PTH109  # sys.path holds texts
    if current not in sys.path and "" not in sys.path:
        sys.path.insert(0, current)
    importlib.invalidate_caches()  # a module may be newer than the cached contents of its folder


def _not_importable(module: str, error: Exception) -> ModelError:
    if module.endswith(".py"):
        return ModelError(
            f"{module} is the name of a file, not of a module",
            "Write it as Python imports it from here, such as shop.models:score.",
        )
    return ModelError(
        f"The module {module} cannot be imported: {type(error).__name__}: {error}",
        f"It is searched in {Path.cwd()} and among the installed packages.",
    )
