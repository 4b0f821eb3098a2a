"""The demo, played with real processes on trees whose figures are known beforehand."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import pytest

from peers.demo import ledger
from peers.demo.submit import Submitted
from peers.demo.verify import verify
from peers.embedded import throwaway
from tests.support import journal
from tests.support.world import Peer, rows, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection

ROOT = Path(__file__).parents[2]
BIG_FILE = Path(argparse.__file__)  # some 50 ms of parsing
COPIES = 100
PACKAGES = 5
BROKEN = {"broken/words.py": "these are words\n", "broken/indent.py": "if True:\npass\n"}


class Played(NamedTuple):
    """How a demo ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def figures(self) -> dict[str, Any]:
        """What it printed as its last line."""
        found: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return found


@contextmanager
def started(*options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A demo under way, in a process group of its own, without this machine's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PEERS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "peers", "demo", *options],
        cwd=ROOT,
        env={**inherited, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()  # it cleans up then, also when the test failed
        process.communicate()


def play(*options: str, **variables: str) -> Played:
    """A demo from its start to its end."""
    with started(*options, **variables) as process:
        stdout, stderr = process.communicate()
        return Played(process.returncode, stdout, stderr)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Packages of large files, and one of two files that do not parse."""
    root = tmp_path / "a tree"
    for number in range(COPIES):
        package = root / f"package{number % PACKAGES}"
        package.mkdir(parents=True, exist_ok=True)
        shutil.copy(BIG_FILE, package / f"file{number}.py")
    for name, source in BROKEN.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(source)
    return root


def test_a_peer_is_killed_and_every_task_ends_once(
    tree: Path, database_url: str, db: Connection
) -> None:
    """A killed peer's work is reclaimed; every task ends once, and the report is right."""
    journal.install(db)
    played = play("--json", "--source", str(tree), "--database-url", database_url)
    assert played.code == 0, played.stderr

    told = played.figures
    assert played.stdout.count("\n") == 1, "the figures stand alone on stdout"
    assert told["tasks"] == COPIES + len(BROKEN) + PACKAGES + 2
    assert told["dead"] == len(BROKEN)
    assert told["completed"] == told["tasks"] - told["dead"]
    assert told["reclaimed"] >= 1
    assert (told["lost"], told["duplicates"], told["early"], told["cancelled"]) == (0, 0, 0, 0)

    steps = [step for step in journal.transitions(db) if step["after"] == "completed"]
    assert len(steps) == len({step["task_id"] for step in steps}) == told["completed"]
    [[report]] = [
        list(r.values())
        for r in rows(db, "select result from peers.task where kind = 'demo.report'")
    ]
    assert report["files"] == COPIES
    assert report["lines"] == COPIES * len(BIG_FILE.read_bytes().splitlines())
    assert report["unparsed"] == len(BROKEN)
    assert len(report["packages"]) == PACKAGES + 1


def test_dead_letters_tell_the_file_and_the_error(
    tree: Path, database_url: str, db: Connection
) -> None:
    """A file that does not parse is tried three times, dies, and is shown with its error."""
    for copy in tree.glob("package*/file*.py"):
        copy.unlink()
    played = play("--no-kill", "--source", str(tree), "--database-url", database_url)
    assert played.code == 0, played.stderr
    letters = rows(db, "select args, attempts, error_type, error_message from peers.dead_letter")
    assert {letter["args"]["path"] for letter in letters} == {str(tree / name) for name in BROKEN}
    for letter in letters:
        assert letter["attempts"] == 3
        assert letter["error_type"] in ("SyntaxError", "IndentationError")
        assert letter["error_message"] in played.stdout
    for name in BROKEN:
        assert name in played.stdout


def test_ctrl_c_leaves_nothing_behind(tree: Path, database_url: str, db: Connection) -> None:
    """After Ctrl-C the peers are gone, nothing is left to run, and the exit code says so."""
    with started("--source", str(tree), "--database-url", database_url) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "peers are starting" in line:
                break
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 130
    assert rows(db, "select * from peers.peer_status where alive") == []
    unfinished = "select * from peers.task where state not in ('completed', 'dead', 'cancelled')"
    assert rows(db, unfinished) == []


def test_without_a_database_it_brings_its_own() -> None:
    """Nothing is configured: the embedded Postgres is used, and this is said in one line."""
    options = ("--json", "--no-kill", "--files", "10", "--peers", "1")
    with throwaway() as postgres:
        data = postgres.data
        played = play(*options, PEERS_EMBEDDED_DATA=str(data))
    assert played.code == 0, played.stderr
    assert played.figures["tasks"] == played.figures["completed"] + played.figures["dead"]
    assert played.figures["reclaimed"] == 0
    assert "the embedded Postgres" in played.stderr.splitlines()[0]
    assert str(data) in played.stderr.splitlines()[0]


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--peers", "1"], 2, "--no-kill"),
        (["--peers", "0"], 2, "from 1 to 16"),
        (["--files", "many"], 2, "from 1 to 100000"),
        (["--source", "/does/not/exist"], 2, "is not a folder"),
        (["--database-url", "postgresql://localhost:1/none"], 3, "cannot be reached"),
    ],
)
def test_what_it_cannot_do_is_told(
    options: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    """Wrong options name their bounds, and a database that is not there is named."""
    played = play(*options, PEERS_EMBEDDED_DATA=str(tmp_path / "embedded"))
    assert played.code == code, played.stderr
    assert sentence in played.stderr


GRAPH = """
    select * from peers.submit_graph(
        '[{"name": "parent", "kind": "a"}, {"name": "child", "kind": "a", "after": ["parent"]}]',
        name => 'demo')
"""


class Ran(NamedTuple):
    """A parent and its child, completed one after the other, and what the ledger has of them."""

    submitted: Submitted
    parent: ledger.Entry
    child: ledger.Entry

    def figures(self, db: Connection, *entries: ledger.Entry) -> tuple[int, int]:
        """Return the duplicates and the early children, by this ledger."""
        figures = verify(db, self.submitted, entries)
        return figures["duplicates"], figures["early"]


@pytest.fixture
def ran(db: Connection) -> Ran:
    """A graph that has ended as it should."""
    tasks = rows(db, GRAPH)
    peer = Peer.join(db)
    entries = []
    for _ in tasks:
        [claim] = peer.claim()
        assert peer.complete(claim) == {}
        entries.append(ledger.Entry(claim.task_id, str(claim.token), 1, 1))
    submitted = Submitted(tasks[0]["graph_id"], "default", entries[1].task_id, 0, 1)
    return Ran(submitted, *entries)


def test_a_run_that_was_repeated_under_another_lease_is_no_duplicate(
    ran: Ran, db: Connection
) -> None:
    """At least once is the promise: only an outcome must not count twice."""
    lost = ran.parent._replace(token=str(uuid4()))
    assert ran.figures(db, lost, ran.parent, ran.child) == (0, 0)


def test_each_kind_of_duplicate_is_counted(ran: Ran, db: Connection) -> None:
    """A lease that ran to its end twice, a completion without a run, a lease with two outcomes."""
    assert ran.figures(db, ran.parent, ran.child) == (0, 0)
    assert ran.figures(db, ran.parent, ran.parent, ran.child) == (1, 0)
    assert ran.figures(db, ran.child) == (1, 0)
    run(
        db,
        "insert into peers.failure (task_id, attempt, token, error_type, error_message, peer_id,"
        " started_at, failed_at) values (%s, 1, %s, 'ValueError', '', gen_random_uuid(), now(),"
        " now())",
        ran.parent.task_id,
        ran.parent.token,
    )
    assert ran.figures(db, ran.parent, ran.child) == (1, 0)


def test_an_early_child_is_found_by_the_clock_and_by_the_ledger(ran: Ran, db: Connection) -> None:
    """A child that started before its parent ended is counted, whichever of the two shows it."""
    assert ran.figures(db, ran.child, ran.parent) == (0, 1)
    run(db, "set search_path = pg_catalog, peers, pg_temp")
    early = "update peers.task set started_at = created_at - interval '1 s' where id = %s"
    run(db, early, ran.child.task_id)
    assert ran.figures(db, ran.parent, ran.child) == (0, 1)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    """The ledger can be read while handlers append to it."""
    file = tmp_path / "ledger"
    file.write_text("1 a 1 2\n2 b 1")
    assert ledger.read(file) == [ledger.Entry(1, "a", 1, 2)]
