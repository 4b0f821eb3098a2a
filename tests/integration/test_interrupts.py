"""Ctrl-C at each moment: no connection stays in the middle of a statement, no command forgets its
work.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import closing, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest

from peers import cli
from peers.database.connection import connect
from peers.demo import main, watch
from tests.support.interrupts import Interrupts, at_each_moment
from tests.support.server import as_url
from tests.support.world import rows, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.server import Connection

UNFINISHED: Final = "select id from peers.task where state not in ('completed', 'cancelled')"


@pytest.mark.parametrize("pooled", [False, True])
def test_a_connection_is_closed_or_takes_the_next_statement(
    database_url: str, pooled: bool
) -> None:
    """It never stays in the middle of a statement whose reply nobody would read."""

    def work(interrupts: Interrupts) -> None:
        with closing(connect(database_url, application_name="test", pooled=pooled)) as connection:
            with suppress(KeyboardInterrupt), interrupts.armed():
                connection.execute("select 1")
                with connection.transaction():
                    connection.execute("select %s::int", (1,))
            if not connection.closed:
                assert connection.execute("select 2").fetchall() == [(2,)], interrupts.line

    at_each_moment(work)


# psycopg drops a connection without closing it if it is interrupted while it connects
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "words",
    [
        "migrate", "check --repair", "submit a", "tasks", "explain 1", "log 1",
        "cancel --queue default", "dead retry --all", "dead discard --all", "prune --keep-dead 1d",
        "pause default", "limit list", "schedule list", "graph list",
    ],
)  # fmt: skip
def test_ctrl_c_ends_each_command_as_such(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """Whatever it interrupts, the exit code is 130, and no cleanup reports another error."""
    monkeypatch.setenv("PEERS_DATABASE_URL", as_url(database_url))
    run(db, "insert into peers.task (kind) select 'a' from generate_series(1, 3)")
    loaded = cli.main(words.split())  # imports have another handler of Ctrl-C

    def command(interrupts: Interrupts) -> None:
        try:
            with interrupts.armed():
                code = cli.main(words.split())
        except KeyboardInterrupt:
            code = 130  # the module peers.__main__ returns it
        assert code == (loaded if interrupts.line is None else 130), interrupts.line

    at_each_moment(command, most=25)


class Enough(Exception):  # noqa: N818
    """The demo has come as far as its test needs it."""


def test_ctrl_c_ends_the_demo_as_such_and_leaves_no_work(
    database_url: str, db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the submission on, whatever is interrupted: the tasks are cancelled, and the command
    ends by KeyboardInterrupt, not by an error of the interrupted connection.
    """
    (tmp_path / "one.py").write_text("")

    def stop(_seconds: float) -> None:
        sys.setprofile(None)  # a second Ctrl-C, during the cleanup, is another matter
        raise Enough

    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=stop))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    args = argparse.Namespace(
        peers=0, source=tmp_path, files=None, json=True, keep=False, no_kill=True
    )

    def demo(interrupts: Interrupts) -> None:
        with (
            closing(connect(database_url, application_name="test", pooled=True)) as connection,
            pytest.raises((KeyboardInterrupt, Enough)) as caught,
            interrupts.armed(),
        ):
            main.run(args, connection, database_url, "the test", str)
        if interrupts.line is not None:
            assert caught.type is KeyboardInterrupt, interrupts.line
        assert rows(db, UNFINISHED) == [], interrupts.line

    at_each_moment(demo, most=100)
