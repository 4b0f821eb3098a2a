"""The database of the test that runs now. The fixture `peers_database` sets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peers.testing.databases import Database

_databases: list[Database] = []


def database() -> Database | None:
    """Return the database of the test that runs now, or None."""
    return _databases[-1] if _databases else None


@contextmanager
def using(database: Database) -> Iterator[None]:
    """Make this the database of the test that runs now."""
    _databases.append(database)
    try:
        yield
    finally:
        _databases.remove(database)
