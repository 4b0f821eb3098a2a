"""Runs that something happens to: what was finished stays, and the same command does the rest."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from peers.embedded import EmbeddedPostgres, throwaway
from tests.e2e.harness import Stage
from tests.predict import models_for_tests
from tests.predict.conftest import ROWS
from tests.predict.endpoint import Endpoint
from tests.predict.runs import (
    CHUNK_DONE,
    MODELS,
    SOURCES,
    environment,
    numbers,
    predict,
    results,
    start,
)
from tests.support.server import open_connection, sql_files

DOUBLES = [(row, row * 2.0) for row in range(ROWS)]


def words_for(model: str, source: Path, output: Path, *more: object) -> list[object]:
    """A command with a peer of its own."""
    return ["--model", f"{MODELS}:{model}", "--input", source, "--output", output,
            "--id-column", "id", "--workers", 1, "--run", "tried", *more]  # fmt: skip


def parts(output: Path) -> list[Path]:
    """The finished parts of the only run."""
    return sorted(output.with_name(f"{output.name}.parts").glob("*/chunk-??????.parquet"))


@pytest.mark.parametrize("how", ["--retry-dead", "peers dead retry"])
def test_rows_that_are_mended_are_put_in(stage: Stage, how: str, tmp_path: Path) -> None:
    """By the same command, be it told to, or after somebody has retried them; the rest is not done
    again, and afterwards nothing is missing.
    """
    source, output = numbers(tmp_path, {7: -1, 2000: -1}), tmp_path / "out.parquet"
    words = words_for("fragile", source, output, "--max-attempts", 1)
    first, _ = predict(stage, *words)
    assert (first["dead"], first["predicted"]) == (2, ROWS - 2)
    stage.open(str(stage.folder / "gate"))  # what failed outside of the model is mended
    if how == "--retry-dead":
        words.append(how)
    else:
        stage.rows("select peers.retry(task_id) from peers.dead_letter")
    again, _ = predict(stage, *words)
    assert (again["dead"], again["predicted"], again["missing"]) == (0, ROWS, 0)
    assert again["batches"] == first["batches"]
    mended = {7: -1.0, 2000: -1.0}
    assert results(output) == [(row, mended.get(row, row * 2.0)) for row in range(ROWS)]
    _, said = predict(stage, *words)
    assert "done already" in said


def test_lost_and_damaged_parts_are_made_again(stage: Stage, tmp_path: Path) -> None:
    """And no others, by the same command; also when the output went with them."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    words = words_for("double", source, output, "--batch-size", 50)
    first, _ = predict(stage, *words)
    found = parts(output)
    assert len(found) > 5
    found[2].unlink()
    found[4].write_bytes(found[4].read_bytes()[:-20])
    output.unlink()
    again, said = predict(stage, *words)
    assert "2 lost parts will be made again" in said
    assert results(output) == DOUBLES
    assert (again["predicted"], again["missing"]) == (ROWS, 0)
    anew = "select count(*) from peers.task where idempotency_key ~ '/chunk/[24]/2$'"
    assert stage.row(anew)["count"] == 2
    assert first["run"] == again["run"]
    assert stage.rows("select * from peers.check()") == []


@pytest.mark.parametrize("kind", ["peers.predict.chunk", "peers.predict.assemble"])
def test_a_run_that_was_cancelled_goes_on(stage: Stage, kind: str, tmp_path: Path) -> None:
    """Whatever of it was cancelled; what was finished is not done again."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    words = words_for("gated", source, output)
    with start(stage, *words) as first:
        stage.until_true(CHUNK_DONE, "peers.predict.chunk")
        last = "select max(id) as id from peers.task where kind = %s"
        victim = stage.row(last, kind)["id"]
        stage.db.execute("select peers.cancel(%s)", [victim])
        stage.until_state("cancelled", victim)
        stage.open(str(stage.folder / "gate"))
        first.communicate(timeout=100)
    done = stage.rows("select id from peers.task where state = 'completed'")
    assert done
    summary, said = predict(stage, *words)
    assert "continuing run" in said
    assert (summary["predicted"], summary["missing"]) == (ROWS, 0)
    assert results(output) == DOUBLES
    assert stage.row("select max(attempt) from peers.task where state = 'completed'")["max"] == 1


def test_two_runs_do_not_write_one_output(stage: Stage, tmp_path: Path) -> None:
    """The second is refused as long as the first is not over."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    with start(stage, *words_for("gated", source, output)) as first:
        stage.until_true(CHUNK_DONE, "peers.predict.chunk")
        words = ["--model", f"{MODELS}:double", "--input", source, "--output", output]
        _, said = predict(stage, *words, "--id-column", "id", code=1)
        assert "is under way and will write" in said
        stage.open(str(stage.folder / "gate"))
        first.communicate(timeout=100)
    assert results(output) == DOUBLES


def test_who_watches_is_told_what_is_the_matter(stage: Stage, tmp_path: Path) -> None:
    """Nobody there to do the work; and then, why a chunk does not get on."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    words = words_for("double", source, output)
    words[words.index("--workers") : words.index("--workers") + 2] = []
    with start(stage, *words) as command:
        told = iter(command.stderr or [])
        assert any("no live peer runs" in line for line in told)
        stage.launch("peers.predict.app", "predict=1")  # which trusts nothing
        trouble = "select count(*) > 0 from peers.failure where error_message ~ 'not trusted'"
        stage.until_true(trouble)
        status, _ = predict(stage, "status", "tried")
        shown = subprocess.run(
            [sys.executable, "-m", "peers", "predict", "status", "tried"],
            env=environment(stage), cwd=SOURCES, text=True, capture_output=True, check=True,
        )  # fmt: skip
        assert f"\ntrouble: {status['trouble']}\n" in shown.stdout
        remedy = f'PEERS_PREDICT_TRUST="{MODELS}"'
        assert remedy in status["trouble"]
        rest = "".join(told)
        assert command.wait(timeout=60) == 1
        assert rest.count(remedy) == 1
        assert "cannot continue" in rest
        assert "with --workers 2" in rest
    done, _ = predict(stage, *words, "--workers", 1)  # which trusts the model that it names
    assert done["state"] == "done"


def test_on_a_terminal_there_is_a_bar(stage: Stage, tmp_path: Path) -> None:
    """With pace and time to go; the summary follows on stdout."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    stage.open(str(stage.folder / "gate"))
    ours, theirs = pty.openpty()
    words = map(str, words_for("double", source, output))
    with subprocess.Popen(
        [sys.executable, "-m", "peers", "predict", *words],
        env={**environment(stage), "TERM": "xterm", "COLUMNS": "120"}, cwd=SOURCES, text=True,
        stdout=subprocess.PIPE, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # the last one has closed it
            pass
        out, _ = process.communicate(timeout=100)
    os.close(ours)
    assert process.returncode == 0, shown
    assert f"{ROWS}/{ROWS}".encode() in shown
    assert b"tried" in shown
    assert f"{ROWS:,} of {ROWS:,} rows predicted" in out


def test_a_model_is_loaded_once_in_each_worker(stage: Stage, tmp_path: Path) -> None:
    """And once to be tried, however many chunks and rows alone there are.

    There may be a worker for handlers that wait, too.
    """
    source, output = numbers(tmp_path, {7: -1, 2000: -1}), tmp_path / "out.parquet"
    words = words_for("Heavy", source, output, "--batch-size", 20, "--max-attempts", 1)
    summary, _ = predict(stage, *words)
    assert summary["dead"] == 2
    assert summary["batches"] > 100
    loaded = Path(environment(stage)[models_for_tests.GATE] + ".loaded").read_text().splitlines()
    assert len(loaded) == len(set(loaded)) <= 3


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Stage, EmbeddedPostgres]]:
    """A stage on a server of its own, which may be restarted."""
    with throwaway() as postgres:
        with open_connection(postgres.url("postgres")) as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier("outage")))
        url = postgres.url("outage")
        with open_connection(url) as connection:
            for file in sql_files():
                connection.execute(file.read_bytes())
        with Stage(url, tmp_path) as stage:
            yield stage, postgres


def test_a_command_outlives_a_restart_of_the_database(
    own: tuple[Stage, EmbeddedPostgres], tmp_path: Path
) -> None:
    """It waits like its peer does, and ends with the summary."""
    stage, postgres = own
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    with start(stage, *words_for("gated", source, output)) as command:
        stage.until_true(CHUNK_DONE, "peers.predict.chunk")
        postgres.restart("immediate")
        stage.open(str(stage.folder / "gate"))
        _, said = command.communicate(timeout=100)
    assert command.returncode == 0, said
    assert "the database is unreachable" in said
    assert results(output) == DOUBLES


def test_a_date_that_has_passed_is_no_reason_to_give_rows_up(
    stage: Stage, endpoint: Endpoint, tmp_path: Path
) -> None:
    """An endpoint that says "at once" while it is busy, and whose URL is longer than a cooldown's
    name may be, is asked again until it answers.
    """
    source, output = numbers(tmp_path, rows=300), tmp_path / "out.parquet"
    endpoint.answers = [(429, {"retry-after": "0"}, {})] * 10
    words: list[Any] = ["--model", f"{endpoint.url}?route={'k' * 300}", "--input", source]
    words += ["--output", output, "--id-column", "id", "--workers", 1]
    summary, _ = predict(stage, *words)
    assert (summary["predicted"], summary["dead"], summary["retries"]) == (300, 0, 0)
