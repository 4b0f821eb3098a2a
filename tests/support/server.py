"""The Postgres server that the tests can get, and databases on it."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from peers import testing
from peers.database import schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import LiteralString

SQL_FOLDER: Final = Path(__file__).parents[2] / "sql"
_USUAL_DOCKER_HOST: Final = "unix:///var/run/docker.sock"
DEFAULT_IMAGE: Final = "postgres:18"
# Room for every peer of the real-process tests; nothing has to survive a power cut.
_SETTINGS: Final = {
    "max_connections": "200", "max_prepared_transactions": "10", "wal_level": "logical",
}  # fmt: skip
# Creating, filling and dropping a database for each test is mostly work for the file system, and
# costs a quarter of the CPU time in memory. A container's /dev/shm may be too small for that.
_MEMORY: Final = Path("/dev/shm")  # noqa: S108
_MEMORY_NEEDED: Final = 2 << 30
_EMBEDDED_SETTINGS: Final = _SETTINGS | {"min_wal_size": "32MB", "max_wal_size": "128MB"}
_CONTAINER_SETTINGS: Final = "-c fsync=off -c full_page_writes=off " + " ".join(
    f"-c {name}={setting}" for name, setting in _SETTINGS.items()
)

Connection = psycopg.Connection[dict[str, Any]]

# A statement that waits for something that will not come fails the test instead of hanging the run.
_OPTIONS: Final = "-c statement_timeout=60s -c synchronous_commit=off"


def open_connection(url: str) -> Connection:
    """A connection in autocommit mode whose rows are dicts; statements end within 60 s."""
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, options=_OPTIONS)


def sql_files() -> list[Path]:
    """Return the shipped SQL in the order in which it is applied, migrations included."""
    return [step.file for step in schema.steps(SQL_FOLDER)]


@contextmanager
def any_server() -> Iterator[tuple[str, str]]:
    """The URL of a server where databases may be made, and where that server came from.

    It is the one that PEERS_TEST_DSN names; else a container of PEERS_TEST_IMAGE where a Docker
    engine answers; else the embedded one. Tests need a superuser: they stop
    triggers and change roles.
    """
    if dsn := os.environ.get("PEERS_TEST_DSN"):
        yield dsn, "PEERS_TEST_DSN"
    elif _docker_answers():
        image = os.environ.get("PEERS_TEST_IMAGE", DEFAULT_IMAGE)
        with _container(image) as url:
            yield url, f"testcontainers: {image}"
    else:
        with _embedded() as url:
            yield url, "embedded"


@contextmanager
def _embedded() -> Iterator[str]:
    from peers.embedded import throwaway

    with ExitStack() as stack:
        with temporary_files_in_memory():
            postgres = stack.enter_context(throwaway(settings=_EMBEDDED_SETTINGS))
        yield postgres.url("postgres")


@contextmanager
def temporary_files_in_memory() -> Iterator[None]:
    """Where the machine has room for it."""
    usual = tempfile.tempdir
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _MEMORY_NEEDED:
        tempfile.tempdir = str(_MEMORY)
    try:
        yield
    finally:
        tempfile.tempdir = usual


def _docker_answers() -> bool:
    try:
        import docker  # type: ignore[import-untyped]
    except ImportError:
        return False
    host = os.environ.get("DOCKER_HOST") or _USUAL_DOCKER_HOST
    if host.startswith("unix://") and not _somebody_listens(host.removeprefix("unix://")):
        return False  # docker's own client would leave a half-open socket behind
    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(5)
        try:
            caller.connect(path)
        except OSError:
            return False
        return True


@contextmanager
def _container(image: str) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.ryuk_disabled = True  # the `with` below stops it; no second image needed
    with PostgresContainer(image, driver=None).with_command(_CONTAINER_SETTINGS) as container:
        yield container.get_connection_url()


class Databases(testing.Databases):
    """Throwaway databases on one server, by their connection strings."""

    def fill(self, database: testing.Database) -> None:
        """Create the schema as shipped, migrations included."""
        with open_connection(database.url) as connection:
            for file in sql_files():
                connection.execute(file.read_bytes())

    def close(self) -> None:
        """Drop what is left, the template included, and end."""
        self.drop_all()
        super().close()

    @contextmanager
    def clone(self) -> Iterator[str]:
        """The URL of a fresh copy of the template, dropped afterwards."""
        with self.copy() as database:
            yield database.conninfo

    @contextmanager
    def empty(self, options: LiteralString = "") -> Iterator[str]:
        """The URL of a database without our schema, dropped afterwards."""
        with self.empty_database(options) as database:
            yield database.conninfo


def as_url(conninfo: str) -> str:
    """Return what may be libpq's own form as a URL, which SQLAlchemy needs."""
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    return f"postgresql:///?{urlencode(parts)}"
