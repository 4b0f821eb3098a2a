"""Python modules as models: where they are, and importing them."""

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
"""The digest of each module's source when it was first used here: what the process really runs."""


def find_source(module: str) -> Path:
    """The file a module is made of. Imports the packages it is in, not the module itself.

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
            f"It is looked for in {Path.cwd()}, and among what is installed.",
        )
    if spec.origin is None or not Path(spec.origin).is_file():
        raise ModelError(f"{module} is not made of a file, so changes in it could not be noticed")
    return Path(spec.origin)


def import_unchanged(module: str, source: Path) -> ModuleType:
    """The module, made of what is now in its file.

    Raises ModelError if it raises, or if this process imported it when the file was another.
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
    """As `python -m` does, and with it each worker of `peers run`; a console script doesn't."""
    current = os.getcwd()  # noqa: PTH109  # sys.path holds texts
    if current not in sys.path and "" not in sys.path:
        sys.path.insert(0, current)
    importlib.invalidate_caches()  # a module may be newer than what was cached of its folder


def _not_importable(module: str, error: Exception) -> ModelError:
    if module.endswith(".py"):
        return ModelError(
            f"{module} is the name of a file, not of a module",
            "Write it as Python imports it from here, such as shop.models:score.",
        )
    return ModelError(
        f"The module {module} cannot be imported: {type(error).__name__}: {error}",
        f"It is looked for in {Path.cwd()}, and among what is installed.",
    )
