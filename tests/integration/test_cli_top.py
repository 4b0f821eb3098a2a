"""`peers top` on a real terminal, on a real database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from peers.cli.sampler import TIMEOUT
from tests.support.cli import PATIENCE, Here, bury, command, environment, join, peers, submit
from tests.support.proxy import Proxy
from tests.support.screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection

FAST = ("top", "--interval", "200ms")


def broken_system(db: Connection) -> tuple[str, int]:
    """Tasks that wait, run and died, a paused queue and a kind that nobody runs."""
    peer = join(db, "thumbs.make", "load")
    dead = submit(db, "thumbs.make")
    bury(db, peer)
    running = submit(db, "thumbs.make")
    db.execute("select * from peers.claim(%s, 'default', 1)", (peer,))
    submit(db, "nobody.runs")
    db.execute("select peers.pause('media')")
    metric = {"queue": "default", "kind": "thumbs.make", "completed": 600, "failed": 30}
    db.execute("select peers.record_metrics(%s, %s::jsonb)", (peer, json.dumps([metric])))
    assert running > dead
    return peer, running


@pytest.fixture
def screen(database_url: str, db: Connection) -> Iterator[Screen]:
    """`peers top` that watches a broken system."""
    broken_system(db)
    with Screen(*FAST, url=database_url) as opened:
        yield opened


def test_the_state_fits_80_columns_and_24_lines(screen: Screen) -> None:
    """Problems with what to type, queues with their rates, peers, what runs, and causes."""
    screen.until(lambda it: "EXAMPLE" in it.text, "drawn")
    text = screen.text
    assert len(screen.drawn) <= 24
    assert max(map(len, screen.drawn)) <= 80
    for expected in (
        "1 peer alive",
        'no live peer runs kind "nobody.runs"',
        'queue "media" is paused: peers resume media',
        "1 dead letter: peers dead list --by-cause",
        "web1",
        "thumbs.make",
        "OSError",
        "q: quit",
    ):
        assert expected in text
    [default] = [line.split() for line in screen.drawn if line.startswith("default")]
    assert default[:8] == ["default", "1", "0", "1", "0", "1", "2.0", "0.1"]
    screen.type("q")
    assert screen.end() == 0
    assert screen.is_restored


def test_the_screen_follows_the_system(screen: Screen, db: Connection) -> None:
    """What is submitted and resumed meanwhile is drawn."""
    screen.until(lambda it: "is paused" in it.text, "drawn")
    db.execute("select peers.resume('media')")
    for _ in range(7):
        submit(db, "nobody.runs")
    screen.until(lambda it: "is paused" not in it.text and "8 tasks ready" in it.text, "new state")


def test_the_screen_follows_the_size_of_the_terminal(database_url: str, db: Connection) -> None:
    """At once: in a small window and in a large one no line is longer, and there are not more."""
    broken_system(db)
    with Screen("top", "--interval", "10min", url=database_url) as screen:
        screen.until(lambda it: "EXAMPLE" in it.text, "drawn")
        for columns, lines in ((40, 10), (200, 60), (80, 24)):
            screen.resize(columns, lines)
            screen.until(partial(_fills, columns, lines), f"{columns} columns, {lines} lines")


def _fills(columns: int, lines: int, screen: Screen) -> bool:
    """The headings are as wide as the terminal, and nothing is wider or longer."""
    widest = max(map(len, screen.drawn))
    return widest == columns and len(screen.drawn) <= lines


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_a_signal_leaves_the_terminal_as_it_was(
    screen: Screen, number: signal.Signals, code: int
) -> None:
    """SIGINT as Ctrl-C."""
    screen.until(lambda it: "EXAMPLE" in it.text, "drawn")
    if number == signal.SIGINT:
        screen.type("\x03")
    else:
        screen.process.send_signal(number)
    assert screen.end() == code
    assert screen.is_restored


def test_a_stopped_process_gives_the_terminal_back(screen: Screen) -> None:
    """After Ctrl-Z the shell has its screen; `fg` draws again."""
    screen.until(lambda it: "EXAMPLE" in it.text, "drawn")
    screen.type("\x1a")
    os.waitid(os.P_PID, screen.process.pid, os.WSTOPPED | os.WNOWAIT)
    while screen._read(0.1):
        pass
    assert screen.is_restored
    screen.raw = ""
    screen.process.send_signal(signal.SIGCONT)
    screen.until(lambda it: "EXAMPLE" in it.text, "drawn again")
    screen.type("q")
    assert screen.end() == 0


def test_it_outlives_the_database(database_url: str, db: Connection) -> None:
    """While the database is away the screen says so, and then it goes on."""
    broken_system(db)
    with Proxy(database_url) as proxy, Screen(*FAST, url=proxy.url) as screen:
        screen.until(lambda it: "EXAMPLE" in it.text, "drawn")
        usual, proxy.most = proxy.most, 0
        proxy.cut()
        screen.until(lambda it: "! no database" in it.text, "trouble")
        assert "EXAMPLE" in screen.text  # what was known stays
        submit(db, "nobody.runs")
        proxy.most = usual
        screen.until(
            lambda it: "no database" not in it.text and "2 tasks ready" in it.text, "goes on"
        )
        screen.type("q")
        assert screen.end() == 0


def test_a_silent_database_is_away_too(database_url: str, db: Connection) -> None:
    """A network that swallows everything does not freeze the screen, nor the keys."""
    broken_system(db)
    with Proxy(database_url) as proxy, Screen(*FAST, url=proxy.url) as screen:
        screen.until(lambda it: "EXAMPLE" in it.text, "drawn")
        with proxy.silence():
            screen.until(lambda it: "did not reply" in it.text, "trouble")
            screen.type("q")
            assert screen.end() == 0


def test_a_part_that_takes_too_long_says_so(screen: Screen, db: Connection) -> None:
    """The other parts go on, and the part comes back."""
    screen.until(lambda it: "EXAMPLE" in it.text, "drawn")
    with db.transaction():
        db.execute("lock table peers.alert in access exclusive mode")
        screen.until(lambda it: "… alerts: the database took longer than 2s" in it.text, "slow")
        assert "nobody.runs" in screen.text


def test_a_slow_part_is_read_less_often(database_url: str, db: Connection) -> None:
    """A part that took 2 s is not tried again for 40 s, so that the load stays small."""
    broken_system(db)
    with db.transaction(), Screen(*FAST, url=database_url) as screen:
        db.execute("lock table peers.alert in access exclusive mode")
        screen.until(lambda it: "alerts: the database took" in it.text, "slow")
        drawn, began = screen.raw.count("\x1b[H"), time.monotonic()
        screen.until(lambda it: it.raw.count("\x1b[H") >= drawn + 5, "goes on")
        assert time.monotonic() - began < 5 * TIMEOUT  # each round would take the whole timeout


def test_without_a_terminal_it_prints_once(database_url: str, db: Connection) -> None:
    """The same text, without control characters."""
    broken_system(db)
    found = peers("top", url=database_url)
    assert (found.code, "\x1b" in found.out) == (0, False)
    assert "1 peer alive" in found.out
    assert "peers resume media" in found.out


def test_json_is_one_document_or_one_a_line(database_url: str, db: Connection) -> None:
    """With --interval a program reads line after line."""
    _, running = broken_system(db)
    told = peers("top", "--json", url=database_url).document
    assert [task["task_id"] for task in told["running"]] == [running]
    assert told["queues"][0]["completed_per_second"] == 2.0
    assert (told["dead_causes"][0]["error_type"], told["unread"]) == ("OSError", {})
    process = subprocess.Popen(
        command("top", "--json", "--interval", "200ms"), stdout=subprocess.PIPE, text=True,
        env=environment(database_url),
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        documents = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
    assert all(document["peers"][0]["alive"] for document in documents)


def test_a_wrong_database_is_an_error_and_not_a_screen() -> None:
    """The command ends with exit code 3."""
    nowhere = "postgresql://me@127.0.0.1:1/none"
    with Screen(*FAST, url=nowhere) as screen:
        assert screen.end() == 3
        assert "cannot be reached" in screen.raw
        assert "\x1b[?1049h" not in screen.raw


def test_without_rich_it_says_what_to_install(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 78; `peers status` is named, which needs nothing."""
    here = Here(database_url, monkeypatch, capsys)
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    monkeypatch.setattr("peers.cli.terminal.is_usable", lambda: True)
    found = here("top")
    assert (found.code, f"{sys.executable} -m pip install 'peers[cli]'" in found.err) == (78, True)
    assert "peers status" in found.err
