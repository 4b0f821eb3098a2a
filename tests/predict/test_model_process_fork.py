"""The smoke test of a model in a fork of the process that has loaded it for the workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import Stage
from tests.predict.runs import MODELS, SOURCES, numbers, predict, results

_ORIGIN = """
import threading, sys
from multiprocessing import Pipe
from peers.predict.tasks.model_server import Forked, serve_in_fork

ours, theirs = Pipe()
{before}
print("printed once", end=" ")
serve_in_fork(theirs, lambda pipe: pipe.send("tried"))
try:
    assert isinstance(ours.recv(), Forked)
    print(ours.recv(), "and went on")
except EOFError:
    print("left alone")
ended.set()
"""


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("ended = threading.Event()", "printed once tried and went on\n"),
        (
            "ended = threading.Event(); threading.Thread(target=ended.wait).start()",
            "printed once left alone\n",
        ),
        (
            "ended = threading.Event(); threading.Thread(target=ended.wait, name='log').start()",
            "printed once tried and went on\n",
        ),
    ],
    ids=["plain", "with a thread", "with the log's thread"],
)
def test_a_process_is_forked_unless_it_has_threads(before: str, says: str) -> None:
    """A lock that a thread holds would be held for ever in the fork."""
    script = _ORIGIN.format(before=before)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCES, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == (says, "", 0)


def test_a_model_is_loaded_once_by_a_command_with_a_peer_of_its_own(
    stage: Stage, tmp_path: Path
) -> None:
    """The process that has it is forked to try it, and for each worker."""
    source, output = numbers(tmp_path, rows=10), tmp_path / "out.parquet"
    words = ["--model", "tests.predict.model_that_counts:predict", "--input", source]
    predict(stage, *words, "--output", output, "--id-column", "id", "--workers", 2)
    assert results(output) == [(row, 1.0) for row in range(10)]
    assert len((stage.folder / "gate").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("tests.predict.model_that_dies:predict", "SIGKILL"),
        (f"{MODELS}:kills", "failed for all 5 rows"),
        ("nowhere.module:f", "nowhere"),
    ],
)
def test_a_peer_of_its_own_hides_nothing_that_is_wrong_with_a_model(
    stage: Stage, model: str, says: str, tmp_path: Path
) -> None:
    """The command says the same with it as without, and submits nothing."""
    words = ["--model", model, "--input", numbers(tmp_path, rows=10), "--id-column", "id"]
    _, said = predict(stage, *words, "--output", tmp_path / "o.parquet", "--workers", 1, code=1)
    assert says in said
    assert stage.rows("select * from peers.task") == []
