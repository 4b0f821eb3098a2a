"""Fixtures of pytest: a database with the schema of Peers for each test.

Load them in the topmost `conftest.py`: `pytest_plugins = ["peers.testing.fixtures"]`. The package
has no entry point for pytest, which would load it in every test run on the machine.

The server is that of PEERS_TEST_DSN, whose role must be allowed to create databases. Without it, a
private Postgres is started (`pip install 'peers[embedded]'`). Processes of pytest-xdist share the
server and the template; each test has a copy of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from peers.testing.databases import Database, Databases

_DSN: Final = "PEERS_TEST_DSN"
_RUN: Final = "peers_test_run"
_FOLDER: Final = "peers_test_folder"
_run_key: Final = pytest.StashKey[str]()
_folder_key: Final = pytest.StashKey[Path]()


@pytest.fixture(scope="session")
def peers_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the URL of the server on which databases are made."""
    if dsn := os.environ.get(_DSN):
        yield dsn
        return
    from peers.embedded import EmbeddedError, EmbeddedPostgres

    postgres = EmbeddedPostgres(
        _folder(request.config), durable=False, settings={"wal_level": "logical"}
    )
    try:
        postgres.start()
    except EmbeddedError as error:
        pytest.fail(f"no Postgres for the tests: {error} Or set {_DSN}.", pytrace=False)
    try:
        yield postgres.url("postgres")
    finally:
        postgres.close()  # the server stops with its last user


@pytest.fixture(scope="session")
def peers_prepare() -> Callable[[str], object] | None:
    """Return what adds tables to the template: a function that gets its URL.

    Override it to create the tables of your application, once for the whole session.
    """
    return None


@pytest.fixture(scope="session")
def peers_databases(
    request: pytest.FixtureRequest,
    peers_server: str,
    peers_prepare: Callable[[str], object] | None,
) -> Iterator[Databases]:
    """Make the template from which each test's database is copied."""
    from peers.testing.databases import Databases

    databases = Databases(peers_server, _run_of(request.config))
    try:
        databases.make_template(peers_prepare)
        yield databases
    finally:
        if not _is_worker(request.config):
            databases.drop_all()
        databases.close()


@pytest.fixture
def peers_database(
    peers_databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Make a database for this test. `peers.submit` and the functions of peers.testing use it."""
    from peers.testing import active

    with peers_databases.copy() as database:
        monkeypatch.setenv("PEERS_DATABASE_URL", database.url)
        monkeypatch.setenv("PEERS_EMBEDDED", "off")
        with active.using(database):
            yield database


# --------------------------------------------------------------------------- processes of xdist


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _run_of(config: pytest.Config) -> str:
    """Return what the processes of this test run have in common."""
    if _is_worker(config) and _RUN in config.workerinput:  # type: ignore[attr-defined]
        return str(config.workerinput[_RUN])  # type: ignore[attr-defined]
    if _run_key not in config.stash:
        from peers.testing.databases import new_run

        config.stash[_run_key] = new_run()
    return config.stash[_run_key]


def _folder(config: pytest.Config) -> Path:
    """Return the folder of the private Postgres that the processes of this test run share."""
    if _is_worker(config) and _FOLDER in config.workerinput:  # type: ignore[attr-defined]
        return Path(config.workerinput[_FOLDER])  # type: ignore[attr-defined]
    if _folder_key not in config.stash:
        from peers.embedded.places import temporary_folder

        config.stash[_folder_key] = temporary_folder()
    return config.stash[_folder_key]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist what it shares with the others."""
    node.workerinput[_RUN] = _run_of(node.config)
    if not os.environ.get(_DSN):
        node.workerinput[_FOLDER] = str(_folder(node.config))


@pytest.hookimpl(trylast=True)  # xdist has ended its workers before
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove what the processes of this test run have shared."""
    config = session.config
    if _is_worker(config):
        return
    folder = config.stash.get(_folder_key, None)
    if folder is not None:
        _remove_server(folder)
    elif (dsn := os.environ.get(_DSN)) and _run_key in config.stash:
        from peers.testing.databases import Databases

        databases = Databases(dsn, config.stash[_run_key])
        databases.drop_all()
        databases.close()


def _remove_server(folder: Path) -> None:
    from peers.embedded import EmbeddedPostgres

    postgres = EmbeddedPostgres(folder, durable=False)
    postgres.stop()
    for place in (postgres.sockets, folder):  # the first may lie elsewhere
        shutil.rmtree(place, ignore_errors=True)
