"""The fixtures that users load: in one process and in several, on both sorts of servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent

import psycopg
import pytest

from peers.testing.databases import PREFIX, Database, Databases, as_url
from tests.support.cli import PROJECT

_PATIENCE = 200
_CONFTEST = 'pytest_plugins = ["peers.testing.fixtures"]\n'
_TESTS = """
    import os, pytest, peers
    from peers.testing import assert_submitted, drain, submitted, Clock

    @peers.task("demo")
    def demo(n: int) -> int:
        return n + 1

    @pytest.mark.parametrize("n", range(4))
    def test_each_has_its_own(peers_database, n):
        assert submitted() == []
        demo.submit(n)
        assert_submitted(demo, {"n": n}, count=1)
        assert drain().completed[0].result == n + 1
        Clock().move("1h")
        connection = peers_database.connect()
        assert connection.execute("select n from app").fetchall() == [(7,)]
        if "NAMES" in os.environ:
            with open(os.environ["NAMES"], "a") as names:
                print(connection.info.dbname, file=names)
"""
_PREPARE = """
    import psycopg, pytest

    @pytest.fixture(scope="session")
    def peers_prepare():
        def prepare(url):
            with psycopg.connect(url) as connection:
                connection.execute("create table app as select 7 as n")
        return prepare
"""


def run_pytest(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a user in a process of their own."""
    (folder / "conftest.py").write_text(_CONFTEST + dedent(_PREPARE))
    (folder / "test_user.py").write_text(dedent(_TESTS))
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PEERS_", "PG"))
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, str(folder)],
        cwd=folder, env={**environment, "PYTHONPATH": str(PROJECT), **env}, timeout=_PATIENCE,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def databases_of_run(url: str, name: str) -> set[str]:
    """Return the databases on this server that the run has made that made this one."""
    run = name.removeprefix(PREFIX).split("_")[0]
    with psycopg.connect(url) as connection:
        query = "select datname from pg_database where starts_with(datname, %s)"
        return {name for (name,) in connection.execute(query, (PREFIX + run,))}


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_each_test_has_a_database_of_its_own(
    databases: Databases, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """They share a template with the tables of the application, and leave nothing behind."""
    server, names = databases.url("postgres"), tmp_path / "names"
    done = run_pytest(tmp_path, *words, PEERS_TEST_DSN=server, NAMES=str(names))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    made = names.read_text().split()
    assert len(set(made)) == 4
    assert [databases_of_run(server, name) for name in made] == [set()] * 4


def test_a_private_postgres_is_started_and_removed(tmp_path: Path) -> None:
    """Two processes share it."""
    # not below tmp_path, which pytest closes to the account of the server
    with TemporaryDirectory(prefix="peers-fixtures-") as name:
        place = Path(name)
        place.chmod(0o711)
        done = run_pytest(tmp_path, "-n", "2", TMPDIR=name)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(place.glob("peers-*")) == []


def test_a_copy_is_much_faster_than_a_migration(databases: Databases) -> None:
    """It takes 25 to 80 ms on an idle machine. This one may be busy, so the two are compared."""

    def fastest(make: Callable[[], object]) -> float:
        seconds = []
        for _ in range(5):
            started = time.monotonic()
            make()
            seconds.append(time.monotonic() - started)
        return min(seconds)

    def copy() -> None:
        with databases.copy() as database:
            database.connect().close()

    def migrate() -> None:
        with databases.empty_database() as database:
            database.migrate()

    assert fastest(copy) < fastest(migrate) / 2


def test_loading_the_fixtures_imports_little() -> None:
    """Every run of pytest pays for it."""
    code = (
        "import sys, peers.testing.fixtures\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in"
        " ('psycopg', 'sqlalchemy', 'msgspec', 'asyncio') or name.startswith('peers.')))"
    )
    out = subprocess.run(
        [sys.executable, "-c", "import pytest, asyncio; " + code.replace(", 'asyncio'", "")],
        capture_output=True, text=True, check=True, timeout=_PATIENCE,
    )  # fmt: skip
    assert out.stdout.strip() == "['peers.testing', 'peers.testing.fixtures']"


@pytest.mark.parametrize(
    ("conninfo", "url"),
    [
        ("host=db user=ann password='a b/c' dbname=shop", "postgresql://ann:a%20b%2Fc@db/shop"),
        ("postgresql://db:5433/shop?sslmode=require", "postgresql://db:5433/shop?sslmode=require"),
        ("host=::1 port=1 dbname=x", "postgresql://[::1]:1/x"),
        ("host=/run/pg dbname=x user=u", "postgresql:///?user=u&dbname=x&host=%2Frun%2Fpg"),
    ],
)
def test_a_connection_string_becomes_a_url(conninfo: str, url: str) -> None:
    """Both libpq and SQLAlchemy take it."""
    from psycopg.conninfo import conninfo_to_dict
    from sqlalchemy.engine import make_url

    assert as_url(conninfo).replace("%2F", "/") == url.replace("%2F", "/")
    assert conninfo_to_dict(as_url(conninfo)) == conninfo_to_dict(conninfo)
    parts = make_url(Database(conninfo).sqlalchemy_url)
    assert parts.drivername == "postgresql+psycopg"
