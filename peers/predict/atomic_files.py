"""Write files atomically: they are complete and on disk, or not there at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from peers.predict.errors import StorageFailed

_RANDOM_BYTES: Final = 8


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write, which replaces `path` at the end of the block.

    A symbolic link stays; its target is replaced. Raises StorageFailed when writing fails, for
    instance because the disk is full. `path` is then unchanged.
    """
    target = destination(path)
    # process ids repeat on other hosts and in containers, and two peers may overlap
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(_RANDOM_BYTES)}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise storage_failed(path, error) from error
    finally:
        discard(temporary)


def destination(path: Path) -> Path:
    """Return the target of `path`; a link may dangle, or lead to another file system."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of earlier writers of `path` that were killed."""
    target = destination(path)
    ours = re.compile(re.escape(f".{target.name}.") + f"[0-9a-f]{{{2 * _RANDOM_BYTES}}}")
    for temporary in target.parent.iterdir():
        if ours.fullmatch(temporary.name):
            temporary.unlink(missing_ok=True)


def storage_failed(path: Path, error: OSError) -> StorageFailed:
    """Return the error to raise for a file that cannot be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StorageFailed(
        f"{path} cannot be written: {reason}",
        f"Finished work is kept. Make {path.parent} writable, with enough free space and quota, "
        "then run the same command again.",
    )


def discard(temporary: Path) -> None:
    """Remove a temporary file if the folder can be written to."""
    with contextlib.suppress(OSError):  # an error that says why is being raised already
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
