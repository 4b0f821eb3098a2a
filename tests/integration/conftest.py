"""What the tests of the client share."""

from __future__ import annotations

import pytest


@pytest.fixture
def configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """PEERS_DATABASE_URL names this test's database."""
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)
    return database_url
