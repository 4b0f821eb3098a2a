"""Files that are there whole, on disk, or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from peers.predict.errors import OutputError

_RANDOM_BYTES: Final = 8


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` at the end of the block.

    Raises OutputError when that fails, such as for a full disk; `path` is then as it was.
    """
    # process ids repeat on other hosts and in containers, and two peers may overlap
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path} cannot be written: {reason}",
            "What is finished stays; make room or correct the rights, and run the command again.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def discard_unfinished(path: Path) -> None:
    """Removes what earlier writers of `path` left behind when they were killed."""
    ours = re.compile(re.escape(f".{path.name}.") + f"[0-9a-f]{{{2 * _RANDOM_BYTES}}}")
    for temporary in path.parent.iterdir():
        if ours.fullmatch(temporary.name):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
