"""What every suite shares: a database for each test, cloned from a template.

Tests run in one process or in several (pytest-xdist). Each process has a server of its own, so
that roles, prepared transactions and whatever else belongs to a whole server do not meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, settings

from tests.support import forked_commands, run
from tests.support.server import Connection, Databases, any_server, open_connection

pytest.register_assert_rewrite("tests.sql.scenarios", "tests.sql.limit_scenarios")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SERVERS: Final = "servers of the tests"

_used_servers: list[str] = []
_survivors: list[str] = []


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare what the processes inherit that the tests start."""
    run.restore_interrupts()
    run.keep_bytecode()
    if not _is_worker(config):
        run.mark()  # its workers inherit the mark
    # a busy machine makes an example slow, not wrong
    settings.register_profile("peers", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("peers")


@pytest.hookimpl(trylast=True)  # xdist has ended its workers before
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the run if a process outlives the tests."""
    if _is_worker(session.config):
        session.config.workeroutput[_SERVERS] = _used_servers  # type: ignore[attr-defined]
        return
    _survivors.extend(run.survivors())
    if _survivors and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ARG001  # xdist passes both
    """Take over what a worker of xdist tells at its end."""
    _used_servers.extend(getattr(node, "workeroutput", {}).get(_SERVERS, []))


@pytest.fixture(scope="session", autouse=True)
def _forked_commands() -> Iterator[None]:
    yield
    forked_commands.end_shared()


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
    """Make further connections to this test's database; they are closed at its end."""
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
    """Say which server the tests ran on, and what they left behind."""
    for line in dict.fromkeys(_used_servers):
        terminalreporter.write_line(line)
    for line in _survivors:
        terminalreporter.write_line(f"still running after the tests: {line}", red=True)
