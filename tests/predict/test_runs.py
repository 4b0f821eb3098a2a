"""Runs from the command line, on real peers and a real database."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.harness import Stage
from tests.predict import models_for_tests
from tests.predict.conftest import ROWS, Forest
from tests.predict.endpoint import Endpoint
from tests.predict.runs import APP, CHUNK_DONE, MODELS, numbers, predict, results, start
from tests.support.server import as_url


def test_an_estimator_predicts_what_it_predicts_sequentially(
    stage: Stage, forest: Forest, tmp_path: Path
) -> None:
    """Each row once, in order, with its id; the same command again finds nothing to do; status says
    so from elsewhere.
    """
    output = tmp_path / "out.parquet"
    words = ["--model", forest.model, "--input", forest.rows, "--output", output]
    words += ["--id-column", "id", "--workers", 2, "--run", "nightly"]
    summary, _ = predict(stage, *words)
    assert (summary["rows"], summary["predicted"], summary["missing"]) == (ROWS, ROWS, 0)
    assert results(output) == list(enumerate(forest.truth))
    assert pq.read_table(output).column("id").to_pylist() == [f"r{row}" for row in range(ROWS)]
    _, said = predict(stage, *words)
    assert "done already" in said
    status, _ = predict(stage, "status", "nightly")
    assert (status["state"], status["predicted"]) == ("done", ROWS)
    assert stage.rows("select * from peers.check()") == []


@pytest.mark.parametrize("callable_", ["double", "double_async"])
def test_poisoned_rows_alone_are_dead_and_named(
    stage: Stage, callable_: str, tmp_path: Path
) -> None:
    """One that raises, two that kill their worker (one is the first of all), one that hangs and one
    without a value, among 1,000: all others are predicted; each dead letter names input, row and
    id.
    """
    poisons = {0: -2, 100: -1, 400: -3, 700: -2, 900: float("nan")}
    source = numbers(tmp_path, poisons, rows=1000)
    output = tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:{callable_}", "--input", source, "--output", output]
    words += ["--id-column", "id", "--workers", 2, "--timeout", "500ms", "--batch-wait", "0"]
    words += ["--batch-size", 32, "--max-attempts", 2]
    summary, _ = predict(stage, *words)
    assert (summary["predicted"], summary["dead"], summary["missing"]) == (995, 5, 0)
    assert {dead["row"]: dead["id"] for dead in summary["dead_rows"]} == {
        row: f"r{row}" for row in poisons
    }
    errors = {dead["row"]: dead["error"] for dead in summary["dead_rows"]}
    assert "ValueError: x must not be -1" in errors[100]
    assert "SIGSEGV" in errors[0]
    assert "took longer than" in errors[400]
    assert "SIGSEGV" in errors[700]
    assert "NaN" in errors[900]
    assert all("numbers.parquet" in error for error in errors.values())
    expected = [(row, row * 2.0) for row in range(1000) if row not in errors]
    assert results(output) == expected
    letters = stage.rows("select * from peers.dead_letter")
    assert {letter["args"]["row"] for letter in letters} == set(errors)


def test_a_row_that_kills_its_worker_takes_few_along_from_a_large_batch(
    stage: Stage, tmp_path: Path
) -> None:
    """Batches are as large as time allows; only some rows around it get tasks of their own."""
    source, output = numbers(tmp_path, {40_000: -2}, rows=60_000), tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:double", "--input", source, "--output", output]
    words += ["--id-column", "id", "--workers", 1, "--max-attempts", 1, "--max-dead", 1]
    summary, _ = predict(stage, *words)
    assert (summary["predicted"], summary["dead"], summary["missing"]) == (59_999, 1, 0)
    assert results(output) == [(row, row * 2.0) for row in range(60_000) if row != 40_000]
    alone = stage.row("select count(*) from peers.task where kind = 'peers.predict.row'")["count"]
    assert alone <= 64


def test_a_run_goes_on_after_command_and_peer_were_killed(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was finished is not done again; every row is there once."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:gated", "--input", source, "--output", output]
    words += ["--id-column", "id", "--run", "resumed"]
    settings = {"predict_trust": MODELS, "lease_timeout": "2s", "poll_interval": "50ms"}
    monkeypatch.setenv(models_for_tests.GATE, str(stage.folder / "gate"))
    victim = stage.launch(APP, "predict=1", **settings)
    first = start(stage, *words)
    stage.until_true(CHUNK_DONE, "peers.predict.chunk")
    victim.kill()
    first.kill()
    first.communicate()
    finished = stage.row("select id, finished_at from peers.task where state = 'completed'")
    stage.open(str(stage.folder / "gate"))
    with start(stage, *words) as second:
        assert any("continuing run" in line for line in second.stderr or [])
        stage.launch(APP, "predict=2", **settings)
        summary = json.loads(second.communicate(timeout=100)[0])
    assert (summary["predicted"], summary["dead"], summary["missing"]) == (ROWS, 0, 0)
    assert results(output) == [(row, row * 2.0) for row in range(ROWS)]
    assert stage.task(finished["id"])["finished_at"] == finished["finished_at"]


def test_an_endpoint_that_is_busy_is_left_alone_and_asked_again(
    stage: Stage,
    endpoint: Endpoint,
    tmp_path: Path,
) -> None:
    """A 429 becomes a cooldown in the database and costs no attempt, and so does a time without
    endpoint; every row is predicted, and there are no more requests at once than asked for.
    """
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    endpoint.answers = [(429, {"retry-after": "1"}, {}), (502, {}, {})]
    words = ["--model", endpoint.url, "--input", source, "--output", output]
    words += ["--id-column", "id", "--workers", 4, "--concurrency", 1]
    summary, _ = predict(stage, *words)
    assert (summary["predicted"], summary["dead"], summary["retries"]) == (ROWS, 0, 0)
    assert results(output) == [(row, row * 2.0) for row in range(ROWS)]
    [held] = stage.rows("select * from peers.cooldown")
    assert held["name"] == endpoint.url
    overlaps = """
        select count(*) from peers.task a join peers.task b on a.id < b.id
        where a.kind = b.kind and a.kind = 'peers.predict.remote'
          and a.started_at < b.finished_at and b.started_at < a.finished_at
    """
    assert stage.row(overlaps)["count"] == 0


def test_a_row_that_makes_an_endpoint_fail_takes_no_other_along(
    stage: Stage, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Since the endpoint answers other rows, it is that row, which is found in few requests."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    endpoint.poison = 1234.0
    words = ["--model", endpoint.url, "--input", source, "--output", output]
    words += ["--batch-size", 32, "--max-attempts", 1]
    summary, _ = predict(stage, *words, "--id-column", "id", "--workers", 2)
    assert (summary["predicted"], summary["dead"], summary["missing"]) == (ROWS - 1, 1, 0)
    [dead] = summary["dead_rows"]
    assert (dead["row"], dead["id"]) == (1234, "r1234")
    assert "returned 500" in dead["error"]
    assert "cannot be helped" in dead["error"]
    assert endpoint.requests < ROWS / 32 + 60


def test_an_endpoint_that_fails_for_all_rows_is_not_blamed_on_them(
    stage: Stage, endpoint: Endpoint, tmp_path: Path
) -> None:
    """The chunk is tried again; when the endpoint works, every row is predicted."""
    source, output = numbers(tmp_path, rows=600), tmp_path / "out.parquet"
    endpoint.answers = [(500, {}, {})] * 16
    words = ["--model", endpoint.url, "--input", source, "--output", output]
    summary, _ = predict(stage, *words, "--id-column", "id", "--workers", 1)
    assert (summary["predicted"], summary["dead"], summary["missing"]) == (600, 0, 0)
    assert summary["retries"] > 0


def test_what_is_finished_outlives_its_tasks(stage: Stage, tmp_path: Path) -> None:
    """When the database has forgotten a run, the same command assembles the parts that are there,
    makes those again that are damaged, and has only the rest predicted.
    """
    source, output = numbers(tmp_path, {100: -1}), tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:double", "--input", source, "--output", output]
    words += ["--id-column", "id", "--workers", 1, "--batch-size", 50]
    first, _ = predict(stage, *words)
    assert (first["dead"], first["predicted"]) == (1, ROWS - 1)
    before = results(output)
    output.unlink()
    stage.rows("select peers.discard(task_id) from peers.dead_letter")
    stage.rows("select * from peers.prune(interval '0')")
    assert stage.rows("select * from peers.task") == []
    damaged = tmp_path / "out.parquet.parts" / first["run"] / "chunk-000003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])
    again, _ = predict(stage, *words)
    assert results(output) == before
    assert (again["dead"], again["predicted"]) == (1, ROWS - 1)
    assert 8 <= again["batches"] < 16  # of the damaged part alone, which has an eighth of the rows


def test_a_run_can_be_watched_from_elsewhere(stage: Stage, tmp_path: Path) -> None:
    """How far it is, at which pace and how long it will take; `--watch` ends with the run."""
    source, output = numbers(tmp_path), tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:gated", "--input", source, "--output", output, "--run", "slow"]
    with start(stage, *words, "--id-column", "id", "--workers", 1) as command:
        stage.until_true(CHUNK_DONE, "peers.predict.chunk")
        status, _ = predict(stage, "status", "slow")
        assert status["state"] == "running"
        assert 0 < status["handled"] < ROWS
        assert status["rows_per_second"] > 0
        assert status["eta_seconds"] > 0
        with start(stage, "status", "slow", "--watch") as watcher:
            stage.open(str(stage.folder / "gate"))
            watched, _ = watcher.communicate(timeout=60)
        command.communicate(timeout=60)
    assert json.loads(watched)["state"] == "done"
    assert json.loads(watched)["eta_seconds"] is None


def test_a_query_is_predicted_into_another_format(stage: Stage, tmp_path: Path) -> None:
    """What the query answers now is the input; the same answer again is the same run."""
    output = tmp_path / "out.csv"
    query = "select 'r' || n as id, n::float8 as x from generate_series(0, 599) n order by n"
    url = as_url(stage.url)
    words: list[object] = ["--model", f"{MODELS}:double", "--input", url, "--query", query]
    words += ["--output", output, "--id-column", "id", "--workers", 1]
    summary, _ = predict(stage, *words)
    assert summary["predicted"] == 600
    with output.open(newline="") as stream:
        found = [(row["id"], float(row["prediction"])) for row in csv.DictReader(stream)]
    assert found == [(f"r{row}", row * 2.0) for row in range(600)]
    _, said = predict(stage, *words)
    assert "done already" in said


def test_a_changed_input_is_a_new_run_and_says_so(stage: Stage, tmp_path: Path) -> None:
    """The output of the old one is not replaced unless that is asked for."""
    output = tmp_path / "out.parquet"
    source = numbers(tmp_path, rows=600)
    words = ["--model", f"{MODELS}:double", "--input", source, "--output", output]
    words += ["--workers", 1, "--run", "nightly", "--id-column", "id"]
    first, _ = predict(stage, *words)
    numbers(tmp_path, rows=700)
    _, said = predict(stage, *words, code=1)
    assert "did not write its contents" in said
    assert "--overwrite" in said
    second, said = predict(stage, *words, "--overwrite")
    assert "the input has changed since run nightly" in said
    assert second["run"] != first["run"]
    assert len(results(output)) == 700


def test_a_callable_that_drops_rows_is_told_so(stage: Stage, tmp_path: Path) -> None:
    """A sentence about the numbers; nothing is submitted, and nothing written."""
    source, output = numbers(tmp_path, rows=600), tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:one_less", "--input", source, "--output", output]
    _, said = predict(stage, *words, "--id-column", "id", "--workers", 1, code=1)
    assert "returned 3 results for 4 rows" in said
    assert stage.rows("select * from peers.task") == []
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--model": "model.xyz"}, "Known are"),
        ({"--model": "nowhere.module:f"}, "nowhere"),
        ({"--model": "broken.joblib"}, "cannot be loaded"),
        ({"--model": "tests.predict.model_that_dies:predict"}, "SIGKILL"),
        ({"--model": f"{MODELS}:kills"}, "failed for all 5 rows"),
        ({"--input": "missing.parquet"}, "missing.parquet"),
        ({"--output": "nowhere/out.parquet"}, "nowhere"),
        ({"--output": "taken.parquet"}, "taken.parquet.parts"),
        ({"--id-column": "key"}, "no column 'key'"),
        ({"--method": "predict"}, "does not apply"),
        ({"--query": "select 1"}, "--query needs the URL of a database"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_submitted(
    stage: Stage, change: dict[str, str], says: str, tmp_path: Path
) -> None:
    """With the thing and the remedy, and no task in the database."""
    (tmp_path / "broken.joblib").write_bytes(b"no pickle")
    (tmp_path / "taken.parquet.parts").write_bytes(b"a file where the parts would be")
    words = {
        "--model": f"{MODELS}:double", "--input": str(numbers(tmp_path, rows=10)),
        "--output": str(tmp_path / "out.parquet"), "--id-column": "id",
    }  # fmt: skip
    for name, value in change.items():
        is_file = "." in value and ":" not in value and "select" not in value
        words[name] = str(tmp_path / value) if is_file else value
    flat = [word for pair in words.items() for word in pair]
    _, said = predict(stage, *flat, code=1)
    assert says in said
    assert "hint: " in said or ". " in said
    assert stage.rows("select * from peers.task") == []
