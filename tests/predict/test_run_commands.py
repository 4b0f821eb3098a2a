"""`peers predict list`, `cancel` and `clean`, and what they must leave alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from peers.predict.errors import RunState
from peers.predict.run.runs import clean
from tests.e2e.harness import Stage
from tests.predict.conftest import ROWS
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
from tests.predict.test_outputs import a_manifest

ROW_WAITS = "select count(*) > 0 from peers.task where kind ~ 'row$' and state = 'scheduled'"


def words_for(model: str, source: Path, output: Path, *more: object) -> list[object]:
    """A command with a peer of its own."""
    return ["--model", f"{MODELS}:{model}", "--input", source, "--output", output,
            "--id-column", "id", "--workers", 1, "--run", "tried", *more]  # fmt: skip


def test_a_run_is_cancelled_and_goes_on_and_is_cleaned(stage: Stage, tmp_path: Path) -> None:
    """Chunks that run and wait, and rows that wait, end with it; nothing of it is lost for the same
    command later, and what it keeps is not cleaned before it is over.
    """
    source, output = numbers(tmp_path, {7: -1}), tmp_path / "out.parquet"
    words = words_for("gated_fragile", source, output, "--max-attempts", 90, "--max-dead", 0)
    with start(stage, *words) as command:
        stage.until_true(CHUNK_DONE, "peers.predict.chunk")
        stage.until_true(ROW_WAITS)
        listed, _ = predict(stage, "list")
        assert [(run["name"], run["state"]) for run in listed["runs"]] == [("tried", "running")]
        _, said = predict(stage, "clean", "tried", code=1)
        assert "is under way" in said
        nothing, _ = predict(stage, "clean")
        assert nothing["runs"] == []
        cancelled, _ = predict(stage, "cancel", "tried")
        assert cancelled["state"] == "cancelled"
        assert cancelled["cancelled_tasks"] >= 3  # a chunk, a row, the assembling task
        command.communicate(timeout=60)
    assert command.returncode == 1
    over = "select state, count(*) from peers.task group by state"
    assert {row["state"] for row in stage.rows(over)} == {"completed", "cancelled"}
    assert stage.rows("select * from peers.running") == []
    status, _ = predict(stage, "status", "tried", code=1)
    assert status["state"] == "cancelled"
    stage.open(str(stage.folder / "gate"))
    done, _ = predict(stage, *words)
    assert (done["state"], done["predicted"], done["dead"]) == ("done", ROWS, 0)
    assert results(output)[7] == (7, -1.0)
    _, said = predict(stage, "cancel", "tried", code=1)
    assert "is done: there is nothing to cancel" in said
    check_cleaning(stage, words, output, done["run"])


def check_cleaning(stage: Stage, words: list[object], output: Path, run: str) -> None:
    """Parts go, the output stays, and the run is still known as done."""
    folder = output.with_name("out.parquet.parts") / run
    before = sorted(folder.iterdir())
    tried, _ = predict(stage, "clean", "--dry-run")
    assert [found["run"] for found in tried["runs"]] == [run]
    assert tried["bytes"] > 1000
    assert sorted(folder.iterdir()) == before
    kept, _ = predict(stage, "clean", "--older-than", "1h")
    assert kept["runs"] == []
    cleaned, _ = predict(stage, "clean")
    assert cleaned["bytes"] == tried["bytes"]
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "written.json"}
    assert len(results(output)) == ROWS
    listed, _ = predict(stage, "list", "--limit", 1)
    [entry] = listed["runs"]
    assert (listed["total"], entry["state"], entry["rows"]) == (1, "done", ROWS)
    assert (entry["predicted"], entry["dead"], entry["output"]) == (ROWS, 0, str(output))
    _, said = predict(stage, *words)
    assert "done already" in said


def test_who_names_a_run_that_is_not_there_is_told_so(stage: Stage) -> None:
    """With the exit code for what is not found, by each of the commands."""
    for command in ("status", "cancel", "clean"):
        _, said = predict(stage, command, "nightly", code=4)
        assert "there is no run 'nightly'" in said
        assert "predict list" in said


def test_only_the_folder_of_a_run_is_cleaned(stage: Stage, tmp_path: Path) -> None:
    """Not one that a task merely names, nor an output of another program, nor what a link
    leads to.
    """
    manifest = a_manifest(tmp_path)
    manifest.path.write_text(manifest.to_json())
    foreign = tmp_path / "elsewhere"
    foreign.mkdir()
    (foreign / "manifest.json").write_text(manifest.to_json())
    (foreign / "precious").write_text("x")
    (manifest.folder / "link").symlink_to(foreign)
    (manifest.folder / "chunk-000000.parquet").write_bytes(b"x" * 500)
    inner = manifest.folder / "deep" / "other.parquet"
    inner.parent.mkdir()
    inner.write_bytes(b"an output")
    places = {"abc": manifest.path, "def": Path(f"{inner}.parts") / "def" / "manifest.json"}
    for run, place in places.items():
        assembling(stage, run, place)

    def cleaned() -> list[Any]:
        return clean(stage.db, name="abc", older_than=None, dry_run=False)

    with pytest.raises(RunState, match="is under way"):
        cleaned()
    stage.db.execute("select peers.cancel(id) from peers.task where state = 'ready'")
    names = (
        "update peers.graph set metadata = metadata || jsonb_build_object('manifest', %s::text) "
        "where name = 'abc'"
    )
    stage.db.execute(names, [str(foreign / "manifest.json")])  # as any role can for a new graph
    assert cleaned() == []
    stage.db.execute(names, [str(manifest.path)])
    [found] = cleaned()
    assert found.bytes >= 500
    assert {path.name for path in manifest.folder.iterdir()} == {"manifest.json", "deep"}
    assert inner.read_bytes() == b"an output"
    assert (foreign / "precious").exists()


def assembling(stage: Stage, run: str, manifest: Path) -> None:
    """A graph with a task, by which the database knows a run."""
    about = json.dumps({"run": run, "name": None, "manifest": str(manifest)})
    graph = stage.db.execute(
        "insert into peers.graph (name, idempotency_key, metadata) values (%s, %s, %s) "
        "returning id",
        [run, f"peers.predict/{run}", about],
    ).fetchone()
    assert graph is not None
    args = json.dumps({"manifest": str(manifest), "submission": 1, "stage": 1})
    stage.db.execute(
        "insert into peers.task (kind, args, queue, graph_id) "
        "values ('peers.predict.assemble', %s, 'predict', %s)",
        [args, graph["id"]],
    )


FULL_THEN_ROOMY = """
mount -t tmpfs -o size=40k tmpfs "$1" || exit 99
shift
"$@"; first=$?
mount -o remount,size=100m "$FOLDER" || exit 99
"$@"; second=$?
cp "$FOLDER/out.parquet" "$KEEP"
exit $((first * 10 + second))
"""


def test_a_full_disk_ends_the_command_with_its_reason(stage: Stage, tmp_path: Path) -> None:
    """Exit code 1, the folder and the remedy; with room, the same command goes on."""
    folder, keep = tmp_path / "small", tmp_path / "kept.parquet"
    folder.mkdir()
    source = numbers(tmp_path)
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    words = words_for("double", source, folder / "out.parquet", "--batch-size", 50)
    how = "-m" if os.geteuid() == 0 else "-rm"
    done = subprocess.run(
        ["unshare", how, "sh", "-c", FULL_THEN_ROOMY, "sh", str(folder),
         sys.executable, "-m", "peers", "predict", *map(str, words)],
        env={**environment(stage), "FOLDER": str(folder), "KEEP": str(keep)}, cwd=SOURCES,
        text=True, capture_output=True, check=False, timeout=110,
    )  # fmt: skip
    if done.returncode in {1, 99} and "cannot continue" not in done.stderr:
        pytest.skip(f"no file system of one's own can be mounted here: {done.stderr}")
    assert done.returncode == 10, done.stderr
    assert "cannot be written: No space left on device" in done.stderr
    assert f"Make {folder}" in done.stderr
    assert results(keep) == [(row, row * 2.0) for row in range(ROWS)]
