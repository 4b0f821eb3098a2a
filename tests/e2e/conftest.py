"""What the real-process tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Databases


@pytest.fixture
def stage(database_url: str, tmp_path: Path) -> Iterator[Stage]:
    """A database with a journal, a ledger, and no peer yet; for this test alone."""
    with Stage(database_url, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage with one peer of two slots, for the tests of a module that leave it as it is."""
    with databases.clone() as url, Stage(url, tmp_path_factory.mktemp("shared")) as made:
        made.peer(slots=2, cancel_grace="500ms")
        yield made
