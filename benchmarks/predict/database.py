"""The database of a measurement: one that is given, or a private server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from peers.embedded import throwaway

PATIENCE: Final = 600.0
_SETTINGS: Final = {
    "shared_buffers": "512MB", "max_wal_size": "4GB",
    "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on",
}  # fmt: skip


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """Yield the given database, or that of a private server which ends afterwards."""
    if url is not None:
        yield url
        return
    with throwaway(settings=_SETTINGS) as postgres:
        yield postgres.url()
