"""What every suite shares: a database of its own for each test, cloned from a template."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.server import Connection, Databases, any_server, open_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MARK: Final = "TEST_RUN_OF_PEERS"
_SURVIVORS_END_WITHIN: Final = 20.0

_used_servers: list[str] = []
_survivors: list[str] = []


def pytest_configure() -> None:
    """Mark every process that the tests will start, and what these start."""
    os.environ[_MARK] = secrets.token_hex(8)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A process that outlives the tests is a failure of theirs."""
    give_up = time.monotonic() + _SURVIVORS_END_WITHIN
    while (found := _marked()) and time.monotonic() < give_up:
        time.sleep(0.1)
    _survivors.extend(found)
    if found and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _marked() -> list[str]:
    mark, found = f"{_MARK}={os.environ[_MARK]}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = mark in (folder / "environ").read_bytes().split(b"\0")
            command = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:  # it has ended, or is another user's
            continue
        if marked and int(folder.name) != os.getpid():
            found.append(f"{folder.name}: {command}")
    return found


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """The server under test, with a template of the shipped schema."""
    with any_server() as (url, origin):
        made = Databases(url)
        _used_servers.append(f"server_version {made.server_version} ({origin})")
        try:
            made.make_template()
            yield made
        finally:
            made.close()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """The connection string of a database with the schema, for this test alone."""
    with databases.clone() as url:
        yield url


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """The connection string of a database without the schema, for this test alone."""
    with databases.empty() as url:
        yield url


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[[], Connection]]:
    """Makes further connections to this test's database; they are closed at its end."""
    made: list[Connection] = []

    def connection() -> Connection:
        made.append(open_connection(database_url))
        return made[-1]

    yield connection
    for each in made:
        each.close()


@pytest.fixture
def db(connect: Callable[[], Connection]) -> Connection:
    """A connection to this test's database: autocommit, rows are dicts."""
    return connect()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Says which server the tests ran on, and what they left behind."""
    for line in _used_servers:
        terminalreporter.write_line(line)
    for line in _survivors:
        terminalreporter.write_line(f"still running after the tests: {line}", red=True)
