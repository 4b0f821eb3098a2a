"""Compute the digest of an input's contents in threads, while the command does other work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from peers.predict.inputs.files import opened

_BLOCK: Final = 64 << 20
"""Bytes per thread: several threads share a large file."""
_PIECE: Final = 1 << 20
_THREADS: Final = 4


class Digest:
    """The digest of files in their order, and of other properties of the input."""

    def __init__(self, paths: Iterable[Path], identity: str = "") -> None:
        """Start to read the files. Raises InputError for a file that cannot be opened."""
        self._identity = identity
        self._pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "digest")
        self._blocks: list[Future[bytes]] = []
        for path in paths:
            with opened(path) as stream:
                size = os.fstat(stream.fileno()).st_size
            self._blocks += [
                self._pool.submit(_block, path, start) for start in range(0, size, _BLOCK)
            ]

    def result(self) -> str:
        """Wait for the digest. Raises InputError."""
        whole = hashlib.sha256(self._identity.encode())
        for block in self._blocks:
            whole.update(block.result())
        self.close()
        return whole.hexdigest()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _block(path: Path, start: int) -> bytes:
    # twice as fast as BLAKE2b with the instructions that nearly all processors have
    found = hashlib.sha256(f"{start}:".encode())
    with opened(path) as stream:
        stream.seek(start)
        left = _BLOCK
        while left and (piece := stream.read(min(_PIECE, left))):
            found.update(piece)
            left -= len(piece)
    return found.digest()
