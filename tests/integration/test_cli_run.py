"""Running a peer, the embedded database and the demo from the command line."""

from __future__ import annotations

import importlib.metadata
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from peers.embedded import EmbeddedPostgres
from peers.embedded.places import temporary_folder
from tests.support.cli import PATIENCE, command, environment, peers, state, submit, until
from tests.support.server import open_connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.server import Connection

APP = """
from peers import task

@task("shop.square")
def square(n: int) -> int:
    return n * n
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with an app of one handler."""
    (tmp_path / "shop.py").write_text(APP)
    return tmp_path


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for an embedded database; both are gone afterwards."""
    folder = temporary_folder()
    yield folder / "data"
    EmbeddedPostgres(folder / "data").stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_run_works_and_drains(
    database_url: str, db: Connection, app: Path, stop: signal.Signals
) -> None:
    """A peer imports the app from the working directory, runs tasks, and leaves when it is told."""
    task = int(peers("submit", "shop.square", "n=7", url=database_url).out)
    process = subprocess.Popen(
        command("run", "--app", "shop", "--queues", "default=1", "--log-format", "json"),
        env=environment(database_url), cwd=app, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until(lambda: state(db, task) == "completed" or process.poll() is not None, "the task ran")
        process.send_signal(stop)
        _, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert '"event": "peer_joined"' in err
    assert db.execute("select result from peers.task").fetchall() == [{"result": 49}]
    assert db.execute("select from peers.peer").fetchall() == []


def test_every_setting_of_a_peer_is_a_flag_of_run() -> None:
    """So that nothing can only be said by a variable."""
    found = peers("run", "--help")
    for flag in (
        "--app", "--queues", "--lease-timeout", "--heartbeat-interval", "--poll-interval",
        "--drain-timeout", "--cancel-grace", "--keep-completed", "--keep-dead", "--log-format",
        "--log-level",
        "--worker-env", "--database-url", "--config", "--embedded",
    ):  # fmt: skip
        assert f"{flag} " in found.out


def test_the_configuration_shows_the_variables_of_workers_and_hides_secrets() -> None:
    """With their origin, as for every setting."""
    shown = peers("config", "--json", env={"PEERS_WORKER_ENV": "API_KEY=s3cret A=b"})
    worker_env = shown.document["worker_env"]
    assert worker_env == {"value": "API_KEY='***' A=b", "origin": "PEERS_WORKER_ENV"}


def test_variables_of_workers_are_a_flag_that_can_be_repeated() -> None:
    """Each occurrence counts: the second one is refused here, without its value."""
    found = peers("run", "--app", "shop", "--worker-env", "A=b c", "--worker-env", "s3cret")
    assert found.code == 78
    assert "worker_env is" in found.err
    assert "must look like NAME=VALUE" in found.err
    assert "s3cret" not in found.err


def test_the_embedded_database_serves_when_asked(folder: Path) -> None:
    """It gets its schema by itself, serves several commands, psql among them, and stops for all."""
    own = {"PEERS_EMBEDDED_DATA": str(folder)}
    idle = peers("db", "url", "--json", env=own)
    assert (idle.code, idle.document["embedded"], idle.document["running"]) == (0, True, False)
    assert "no database is configured" in idle.err
    with EmbeddedPostgres(folder, durable=False) as postgres:
        submitted = peers("submit", "a", "--embedded", env=own)
        assert (submitted.code, submitted.out) == (0, "1\n"), submitted
        assert peers("explain", "1", env={"PEERS_EMBEDDED": "1", **own}).code == 0
        assert peers("db", "url", env=own).out == f"{postgres.url()}\n"
        count = "select count(*) from peers.task"
        if postgres.psql() is not None:
            assert peers("db", "psql", "-XAt", "-c", count, env=own).out == "1\n"
        assert peers("db", "stop", env=own).out == "the embedded database is stopped\n"
        assert postgres.pid is None
        assert peers("db", "stop", env=own).out == "it was not running\n"


PROGRAM = """
import asyncio, os, peers
first = peers.submit("a")
with peers.Client() as client:
    second = client.submit("a")
async def main():
    async with peers.AsyncClient() as client:
        return await client.submit("a")
third = asyncio.run(main())
child = os.fork()
if child == 0:
    peers.submit("a")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(*[task.id for task in peers.find(limit=3)][::-1])
"""


def test_programs_find_the_embedded_database_as_commands_do(folder: Path) -> None:
    """Clients without a URL start it, with its schema, and share it with the commands."""
    own = environment(more={"PEERS_EMBEDDED_DATA": str(folder), "PEERS_EMBEDDED": "1"})

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**own, **more}, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip

    alone = run()
    assert (alone.returncode, alone.stdout) == (0, "2 3 4\n"), alone.stderr
    with EmbeddedPostgres(folder) as postgres:
        assert run().stdout == "6 7 8\n"
        assert peers("submit", "a", env=own).out == "9\n"
        assert run(PEERS_DATABASE_URL=postgres.url()).stdout == "11 12 13\n"
        assert postgres.pid is not None
    both = run(PEERS_DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert "ConfigError: both a database and the embedded one are configured" in both.stderr
    assert "Remove one of them, or pass the URL to Client(…)." in both.stderr
    none = run(PEERS_EMBEDDED="")
    assert "ConfigError: no database is configured" in none.stderr
    assert "PEERS_EMBEDDED=1" in none.stderr


def test_an_embedded_database_from_before_the_first_release_is_named(folder: Path) -> None:
    """The error says which folder to remove; `config` names the folder, too."""
    own = {"PEERS_EMBEDDED_DATA": str(folder)}
    with EmbeddedPostgres(folder, durable=False) as postgres:
        assert peers("migrate", "--embedded", env=own).code == 0
        with open_connection(postgres.url()) as db:
            db.execute("drop table peers.graph cascade")
        for words in (["status", "--embedded"], ["migrate", "--embedded"], ["demo"]):
            found = peers(*words, env=own)
            assert found.code == 78, found
            assert f"the embedded database in {folder}" in found.err
            assert f"remove the folder {folder}" in found.err
        assert f"keeps its data in {folder}" in peers("config", env=own).err


def test_run_brings_the_schema_into_the_embedded_database(folder: Path, app: Path) -> None:
    """One command is enough for a peer, and its server lives as long as the peer."""
    process = subprocess.Popen(
        command("run", "--embedded", "--app", "shop", "--queues", "default=1"),
        env=environment(more={"PEERS_EMBEDDED_DATA": str(folder)}), cwd=app,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        assert any("peer_joined" in line for line in lines)
        assert EmbeddedPostgres(folder).pid is not None
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    until(lambda: EmbeddedPostgres(folder).pid is None, "the server stops with its last user")


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql on this machine")
def test_psql_gets_the_configured_database(database_url: str, db: Connection) -> None:
    """Its own arguments are passed on, and so is its exit code."""
    submit(db, "a")
    found = peers("db", "psql", "-XAt", "-c", "select kind from peers.task", url=database_url)
    assert (found.code, found.out) == (0, "a\n"), found
    assert peers("db", "psql", "-X", "-c", "select nonsense", url=database_url).code == 1


def test_the_url_of_a_configured_database_is_printed(database_url: str) -> None:
    """For scripts: psql "$(peers db url)"."""
    assert peers("db", "url", url=database_url).out == f"{database_url}\n"


def test_the_demo_declares_its_own_arguments() -> None:
    """They are shown with the flags that every command has."""
    found = peers("demo", "--help")
    assert found.code == 0
    for flag in ("--peers", "--embedded", "--json"):
        assert flag in found.out


def test_the_version_is_told() -> None:
    """That of the package and that of the contract."""
    found = peers("--version")
    try:
        number = importlib.metadata.version("peers")
    except importlib.metadata.PackageNotFoundError:
        number = "(not installed)"
    assert found.out == f"peers {number}, contract version 1\n"
