"""Fixtures that the SQL tests share."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.support.world import Peer, World, stop_clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.server import Connection


@pytest.fixture
def world(db: Connection, connect: Callable[[], Connection]) -> Iterator[World]:
    """The test's database with sessions that act at the same time."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        yield World(db, connect, pool)


@pytest.fixture
def _stopped_clock(db: Connection) -> None:
    """For tests that fail if a second passes between two of their statements."""
    stop_clock(db)


@pytest.fixture
def peer(db: Connection) -> Peer:
    """A peer that can run kind `a`."""
    return Peer.join(db)
