"""What every suite shares: a database of its own for each test, cloned from a template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import Connection, Databases, any_server, open_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_used_servers: list[str] = []


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
    """Says which server the tests ran on."""
    for line in _used_servers:
        terminalreporter.write_line(line)
