"""The fixtures that users load, on the server of the other tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from peers.testing import Database, active

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database for this test, as the fixture `peers_database` makes one."""
    with Database(database_url) as made, active.using(made):
        monkeypatch.setenv("PEERS_DATABASE_URL", made.url)
        monkeypatch.setenv("PEERS_EMBEDDED", "off")
        yield made
