"""A client's connections: reused, shared by threads, left alone by child processes, replaced."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import peers
from peers.client import pool
from peers.client.client import Client
from peers.client.default import default_client
from peers.client.statements import Request, Statement
from tests.support.commits import CommitProxy, Cut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection

NAME = "client under test"


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    """A client of three connections."""
    with Client(database_url, max_connections=3, application_name=NAME) as made:
        yield made


def pids(db: Connection, name: str = NAME) -> set[int]:
    """The server's processes for this client."""
    query = (
        "select pid from pg_stat_activity"
        " where application_name = %s and datname = current_database()"
    )
    return {row["pid"] for row in db.execute(query, (name,))}


def terminate(db: Connection) -> None:
    """What a restart of the server does to the client's connections."""
    found = pids(db)
    for pid in found:
        db.execute("select pg_terminate_backend(%s)", (pid,))
    until = time.monotonic() + 60
    while found & pids(db) and time.monotonic() < until:
        time.sleep(0.01)


def count(db: Connection) -> int:
    """The tasks that there are."""
    [row] = db.execute("select count(*) as n from peers.task").fetchall()
    return int(row["n"])


def test_a_connection_serves_many_submissions(db: Connection, client: Client) -> None:
    """A web application does not connect for each of them."""
    client.submit("a")
    before = pids(db)
    for _ in range(10):
        client.submit("a")
    assert pids(db) == before
    assert len(before) == 1


def test_threads_share_a_bounded_pool(db: Connection, client: Client) -> None:
    """More threads than connections wait for each other, and each gets its own id."""
    ids: list[int] = []

    def work() -> None:
        for _ in range(20):
            ids.append(client.submit("a"))  # noqa: PERF401

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(ids)) == 160 == count(db)
    assert len(pids(db)) <= 3


def test_threads_get_a_connection_in_the_order_in_which_they_came(database_url: str) -> None:
    """One that waits for longer than the pool's patience is not overtaken by those after it."""
    done: list[int] = []
    sleep = Statement("sleep", "select null from pg_sleep(0.05)", lambda _: None, is_read_only=True)
    with Client(database_url, max_connections=1) as client:
        client.submit("a")

        together = threading.Barrier(20)

        def work(number: int) -> None:
            together.wait(60)
            for _ in range(3):
                client.perform(Request(sleep, {}))
                done.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(done) == 60
    assert set(done[:25]) == set(range(20))  # none had a third turn before another's first


def test_a_restarted_database_costs_nothing(
    db: Connection, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """All stale connections are replaced before anything is sent on them; nothing is logged."""
    threads = [threading.Thread(target=client.submit, args=("a",)) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with caplog.at_level(logging.WARNING):
        terminate(db)
        began = time.monotonic()
        client.submit("b")
        assert client.find(kind="b", limit=1)
    assert time.monotonic() - began < 15
    assert [task.kind for task in client.find(limit=1000)].count("b") == 1
    assert caplog.records == []


@pytest.mark.parametrize("cut", list(Cut))
def test_a_commit_that_is_cut_off_on_a_pooled_connection(
    db: Connection, database_url: str, tmp_path: Path, cut: Cut
) -> None:
    """A second submission on a connection that served before exists once, and its id is true."""
    proxy = CommitProxy(tmp_path, database_url)
    with Client(proxy.url) as client:
        first = client.submit("a")
        proxy.cuts = iter([cut])
        second = client.submit("a")
        assert [task.id for task in client.find()] == [second, first]
    assert count(db) == 2
    proxy.close()


def test_a_stale_connection_that_looks_good_is_tried_again(
    db: Connection, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of an idle connection only saves time."""
    monkeypatch.setattr(pool, "_works", lambda _connection: True)
    client.submit("a")
    terminate(db)
    client.submit("a")
    terminate(db)
    assert len(client.find()) == 2 == count(db)


def test_no_database_is_reported_at_once() -> None:
    """With the reason, not as a timeout of a pool."""
    began = time.monotonic()
    with Client("postgresql://nobody@127.0.0.1:1/x") as nowhere:
        for call in (lambda: nowhere.submit("a"), lambda: nowhere.get(1)):
            with pytest.raises(peers.DatabaseUnreachable, match=r"127\.0\.0\.1, port 1"):
                call()
        with pytest.raises(peers.DatabaseUnreachable, match=r"127\.0\.0\.1, port 1"):
            nowhere.result(1)
    assert time.monotonic() - began < 20


def test_a_database_that_does_not_exist_is_a_wrong_setting(database_url: str) -> None:
    """The pool passes the kind of the error on."""
    with (
        Client(f"{database_url} dbname=nowhere") as wrong,
        pytest.raises(peers.ConfigError, match="nowhere"),
    ):
        wrong.submit("a")


def test_a_closed_client_says_so(database_url: str) -> None:
    """Instead of connecting again, or of waiting for ever."""
    client = Client(database_url)
    task_id = client.submit("a")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            client.result(task_id)
        except peers.PeersError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until = time.monotonic() + 60
    while client._waiter is None and time.monotonic() < until:
        time.sleep(0.01)
    client.close()
    thread.join(60)
    assert len(errors) == 1
    with pytest.raises(peers.PeersError, match="the client is closed"):
        client.submit("a")
    client.close()


def test_the_default_client_follows_the_settings(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one object until the environment names another database."""
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)
    first = default_client()
    assert default_client() is first
    monkeypatch.setenv("PEERS_DATABASE_URL", f"{database_url} connect_timeout=7")
    assert default_client() is not first
    peers.submit("a")


def fork(client: Client, awaited: int) -> tuple[int, int]:
    """A child process that submits five tasks and waits for one; its pid and a pipe from it."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    status = 1
    try:
        signal.alarm(60)
        ids = [client.submit("child") for _ in range(5)]
        with pytest.raises(TimeoutError):
            client.result(awaited, 0.2)
        os.write(write, json.dumps(ids).encode())
        client.close()
        status = 0
    finally:
        os._exit(status)


def test_a_forked_child_uses_connections_of_its_own(db: Connection, client: Client) -> None:
    """As a prefork server does: parent and child go on, and neither ends the other's session."""
    awaited = client.submit("awaited")
    with pytest.raises(TimeoutError):
        client.result(awaited, 0.1)
    before = pids(db)
    children = [fork(client, awaited) for _ in range(3)]
    ids = [client.submit("parent") for _ in range(5)]
    for child, read in children:
        with os.fdopen(read) as pipe:
            ids += json.loads(pipe.read() or "[]")
        assert os.waitpid(child, 0)[1] == 0
    assert len(set(ids)) == 20
    assert len(client.find(kind="child")) == 15
    assert before <= pids(db), "the parent's connections are as before"


SCRIPT = """
import sys
import peers
client = peers.Client(sys.argv[1]) if sys.argv[2] == "own" else peers
id = client.submit("a")
try:
    client.result(id, 0.1)
except TimeoutError:
    print(id)
{end}
"""


@pytest.mark.parametrize("whose", ["own", "default"])
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "import os; os.fork()"])
def test_a_program_that_closes_nothing_ends(database_url: str, whose: str, end: str) -> None:
    """At once, without a word, and so does a forked child that exits in the ordinary way."""
    began = time.monotonic()
    program = [sys.executable, "-W", "error", "-c", SCRIPT.format(end=end), database_url, whose]
    ended = subprocess.run(
        program, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PEERS_DATABASE_URL": database_url}, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split()[0] == "1"
    assert time.monotonic() - began < 25
