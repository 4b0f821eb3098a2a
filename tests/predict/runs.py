"""Runs of `peers predict` from the command line, and what comes out of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tests.e2e.harness import Stage
from tests.predict import models_for_tests
from tests.predict.conftest import ROWS
from tests.support.forked_commands import ForkedCommands

APP: Final = "peers.predict.app"
MODELS: Final = "tests.predict.models_for_tests"
SOURCES: Final = Path(__file__).parents[2]
_IMPORTED: Final = (
    "pandas", "peers.cli.failures", "peers.cli.predict.database", "peers.cli.predict.runs",
    "peers.predict.run.command", "peers.predict.run.own_peer",
)  # fmt: skip
_exit_stack: Final = ExitStack()
CHUNK_DONE: Final = "select count(*) >= 1 from peers.task where kind = %s and state = 'completed'"


def environment(stage: Stage) -> dict[str, str]:
    """What the command and its peers get."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PEERS_")}
    return {
        **inherited,
        "PEERS_DATABASE_URL": stage.url,
        "PEERS_CANCEL_GRACE": "200ms",
        models_for_tests.GATE: str(stage.folder / "gate"),
    }


def start(stage: Stage, *words: object) -> subprocess.Popen[str]:
    """The command, under way. Dead rows are fine, unless --max-dead is among the words."""
    return subprocess.Popen(
        [sys.executable, "-m", "peers", *_words(words)],
        env=environment(stage), cwd=SOURCES, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def predict(stage: Stage, *words: object, code: int = 0) -> tuple[dict[str, Any], str]:
    """The command's summary, and what it said; as for `start`, but for commands that end."""
    returned, out, said = _forked_commands().run(_words(words), environment(stage))
    assert returned == code, said
    return (json.loads(out) if out else {}), said


def end_forked_commands() -> None:
    """At the end of the session."""
    _forked_commands.cache_clear()
    _exit_stack.close()


@cache
def _forked_commands() -> ForkedCommands:
    return _exit_stack.enter_context(ForkedCommands(_IMPORTED))


def _words(words: tuple[object, ...]) -> list[str]:
    if words[0] not in {"status", "list", "cancel", "clean"} and "--max-dead" not in words:
        words = (*words, "--max-dead", "100%")
    return ["predict", *map(str, words), "--json"]


def numbers(folder: Path, poisons: dict[int, float] | None = None, rows: int = ROWS) -> Path:
    """An input with the columns id and x, where x is the row's number unless it is poison."""
    path = folder / "numbers.parquet"
    values = [float((poisons or {}).get(row, row)) for row in range(rows)]
    pq.write_table(pa.table({"id": [f"r{row}" for row in range(rows)], "x": values}), path)
    return path


def results(path: Path) -> list[tuple[int, Any]]:
    """(row, prediction) of the output."""
    table = pq.read_table(path)
    rows = table.column("row").to_pylist()
    return list(zip(rows, table.column("prediction").to_pylist(), strict=True))
