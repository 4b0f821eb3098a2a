"""Unit tests are pure: they start no process and connect to nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from peers.context import current

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORBIDDEN: Final = frozenset(
    {"os.fork", "os.posix_spawn", "os.system", "socket.connect", "subprocess.Popen"}
)


class _Guard:
    """An audit hook cannot be taken away again, so it is switched on for each test."""

    active = False

    def __call__(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self.active and event in _FORBIDDEN:
            raise RuntimeError(f"A unit test must not do {event}: move it to tests/integration.")


_guard: Final = _Guard()
sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def pure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Make whatever a pure test may not do an error."""
    if "databases" in request.fixturenames:
        pytest.fail("A unit test must not use a database: move it to tests/integration.")
    _guard.active = True
    yield
    _guard.active = False
    assert current() is None, "the test has not left a task: the next ones would run inside it"
