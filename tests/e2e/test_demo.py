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
from uuid import UUID

import pytest

from peers.demo import figures, ledger
from peers.embedded import throwaway
from tests.support import journal
from tests.support.world import rows

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
        (["--source", "/does/not/exist"], 2, "is no folder"),
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


PEER = UUID(int=1)


def a_task(id: int, token: str, *, started: float = 2.0, finished: float = 3.0) -> figures.Task:
    """A completed task."""
    return figures.Task(id, "demo.index_file", "completed", token, 1.0, started, finished)


def test_a_run_that_was_repeated_under_another_lease_is_no_duplicate() -> None:
    """At least once is the promise: only an outcome must not come twice."""
    runs = [ledger.Entry(1, "a", 1, 1), ledger.Entry(1, "b", 2, 2)]
    lost = figures.Failure(1, "a", figures.LOST, PEER)
    assert figures.duplicates([a_task(1, "b")], [lost], runs) == 0


@pytest.mark.parametrize(
    ("failures", "runs"),
    [
        pytest.param([], [("a", 1), ("a", 1)], id="run to the end twice under one lease"),
        pytest.param([], [("b", 1)], id="completed without a run"),
        pytest.param(["a"], [("a", 1)], id="completed and failed under one lease"),
        pytest.param(["b", "b"], [("a", 1)], id="failed twice under one lease"),
    ],
)
def test_duplicates_are_found(failures: list[str], runs: list[tuple[str, int]]) -> None:
    """Each way in which an outcome can be there twice, or out of nothing, is counted."""
    entries = [ledger.Entry(1, token, attempt, 1) for token, attempt in runs]
    failed = [figures.Failure(1, token, "ValueError", PEER) for token in failures]
    assert figures.duplicates([a_task(1, "a")], failed, entries) == 1


def test_an_early_child_is_found_by_the_clock_and_by_the_ledger() -> None:
    """A child that started before its parent ended is counted, whichever of the two shows it."""
    edge = [(1, 2)]
    parent, child = a_task(1, "p"), a_task(2, "c", started=3.0, finished=4.0)
    in_order = [ledger.Entry(1, "p", 1, 1), ledger.Entry(2, "c", 1, 1)]
    assert figures.early([parent, child], edge, in_order) == 0
    assert figures.early([parent, child], edge, in_order[::-1]) == 1
    hasty = a_task(2, "c", started=2.5, finished=4.0)
    assert figures.early([parent, hasty], edge, in_order) == 1


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    """The ledger can be read while handlers append to it."""
    file = tmp_path / "ledger"
    file.write_text("1 a 1 2\n2 b 1")
    assert ledger.read(file) == [ledger.Entry(1, "a", 1, 2)]
