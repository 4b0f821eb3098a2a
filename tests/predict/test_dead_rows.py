"""How many rows may be dead: what the exit code says, and when a run stops early."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from peers.predict.dead_limit import DeadLimit
from peers.predict.errors import RunStopped
from peers.predict.tasks import failure_limit
from peers.predict.tasks.row_counts import RowCounts
from peers.predict.texts import one_line
from tests.e2e.harness import Stage
from tests.predict.runs import (
    APP,
    MODELS,
    SOURCES,
    environment,
    numbers,
    predict,
    results,
    start,
)
from tests.predict.test_outputs import a_manifest


def words_for(source: Path, output: Path, *more: object) -> list[object]:
    """A command with a peer of its own."""
    return ["--model", f"{MODELS}:double", "--input", source, "--output", output,
            "--id-column", "id", "--workers", 1, "--run", "tried", "--max-attempts", 1,
            *more]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "of", "rows"),
    [("0", 10, 0), ("5", 10, 5), ("0.1%", 5000, 5), ("0.1%", 999, 0), ("100%", 7, 7), ("0%", 7, 0)],
)
def test_a_limit_is_a_number_or_a_share(text: str, of: int, rows: int) -> None:
    """A share is rounded down."""
    assert DeadLimit(text).rows(of) == rows


@pytest.mark.parametrize("text", ["", "-1", "1.5", "101%", "%", "five", "1e3", "nan%"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    """With an example of both forms."""
    with pytest.raises(ValueError, match=r"5, or a share such as 0\.1%"):
        DeadLimit(text)


def test_an_exit_code_of_0_promises_all_rows_but_the_allowed_ones(
    stage: Stage, tmp_path: Path
) -> None:
    """By default none may be missing. The output is there all the same, in one run: whatever is
    allowed, and whoever asks.
    """
    source, output = numbers(tmp_path, {7: -1, 8: -1, 9: -1}, rows=300), tmp_path / "out.parquet"
    words = list(map(str, words_for(source, output)))
    first = subprocess.run(
        [sys.executable, "-m", "peers", "predict", *words],
        env=environment(stage), cwd=SOURCES, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert first.returncode == 5, first.stderr
    assert "3 rows are dead, more than --max-dead 0 allows" in first.stderr
    assert "run the same command with --retry-dead" in first.stdout
    assert first.stdout.count("dead rows: ") == 1, first.stdout  # one reason for all three
    assert re.search(r"3 dead rows: ValueError: .* \(first: row 7, task \d+\)", first.stdout)
    assert len(results(output)) == 297
    predict(stage, "status", "tried", code=5)
    for limit, code in (("2", 5), ("3", 0), ("0.9%", 5), ("1%", 0)):
        summary, said = predict(stage, *words, "--max-dead", limit, code=code)
        assert summary["dead"] == 3
        assert (f"--max-dead {limit}" in said) == bool(code)
    predict(stage, "status", "tried")
    assert stage.row("select count(*) from peers.task where kind ~ 'assemble'")["count"] == 2
    joined = stage.row(
        "select count(distinct graph_id) as graphs, bool_and(graph_id is not null) as every "
        "from peers.task"
    )
    assert (joined["graphs"], joined["every"]) == (1, True)  # chunks, rows and both assemblies
    assert stage.row("select name from peers.graph")["name"] == "tried"


def test_a_run_in_which_nearly_every_row_is_dead_stops_by_itself(
    stage: Stage, tmp_path: Path
) -> None:
    """Without a command that watches. What was done stays, the reason is in its status; the same
    command does not go on in vain, but does with a higher limit, and does only what is missing.
    """
    rows = 3200
    source = numbers(tmp_path, dict.fromkeys(range(100, rows), float("nan")), rows=rows)
    output = tmp_path / "out.parquet"
    words = words_for(source, output, "--batch-size", 50)
    del words[words.index("--workers") : words.index("--workers") + 2]
    with start(stage, *words, "--max-dead", 0) as command:
        stage.until_true("select count(*) > 0 from peers.task where kind ~ 'assemble'")
        command.kill()
    stage.launch(APP, "predict=1", predict_trust=MODELS, poll_interval="50ms")
    stage.until_true(
        "select count(*) > 0 from peers.dead_letter where kind ~ 'assemble'"
        " and error_type = 'RunStopped'"
    )
    stage.until_ended()
    status, _ = predict(stage, "status", "tried", code=1)
    assert status["state"] == "stopped"
    assert "more than --stop-after-dead 50% allows" in status["stopped"]
    assert 500 < status["dead"] < rows * 0.75
    assert status["dead_rows"]
    assert not output.exists()
    again, _ = predict(stage, *words, "--max-dead", 0, code=1)
    assert (again["state"], again["dead"]) == ("stopped", status["dead"])
    before = stage.row("select count(*) from peers.task where kind ~ 'chunk'")["count"]
    done, _ = predict(stage, *words, "--max-dead", 0, "--stop-after-dead", "100%", code=5)
    assert (done["state"], done["predicted"], done["dead"]) == ("done", 100, rows - 100)
    assert len(results(output)) == 100
    after = stage.row("select count(*) from peers.task where kind ~ 'chunk'")["count"]
    assert before < after < 2 * before
    assert stage.rows("select * from peers.check()") == []


def test_a_run_that_was_stopped_goes_on_when_the_cause_is_fixed(
    stage: Stage, tmp_path: Path
) -> None:
    """With --retry-dead, also rows that kill their workers: no handler can count those."""
    source = numbers(tmp_path, dict.fromkeys(range(100, 104), -2.0), rows=200)
    output = tmp_path / "out.parquet"
    words = words_for(source, output, "--stop-after-dead", 2, "--batch-size", 8)
    words[1] = f"{MODELS}:kills_until_fixed"
    stopped, said = predict(stage, *words, code=1)
    assert stopped["state"] == "stopped", said
    assert "more than --stop-after-dead 2 allows" in stopped["stopped"]
    assert "--retry-dead" in said
    stage.open(str(stage.folder / "gate"))
    done, _ = predict(stage, *words, "--retry-dead", "--max-dead", 0)
    assert (done["state"], done["predicted"], done["dead"]) == ("done", 200, 0)
    fixed = dict.fromkeys(range(100, 104), -4.0)
    assert results(output) == [(row, fixed.get(row, row * 2.0)) for row in range(200)]


def test_who_allows_many_dead_rows_is_not_stopped_by_a_default(tmp_path: Path) -> None:
    """A limit that was given counts as it is; a share needs a thousand rows to mean anything."""
    manifest = a_manifest(tmp_path)  # of 50 rows
    counts = RowCounts(manifest.folder)

    def is_stopped(max_dead: str, stop: str | None) -> bool:
        return (
            failure_limit.limit_exceeded(replace(manifest, max_dead=max_dead, stop_after_dead=stop))
            is not None
        )

    counts.record_chunk(0, 400)
    counts.mark_dead(range(599))
    assert not is_stopped("0", None)  # 999 rows were tried
    assert is_stopped("0", "10")
    counts.mark_dead(range(700))
    assert is_stopped("0", None)
    assert not is_stopped("0", "100%")
    assert is_stopped("1000", "10")
    assert not is_stopped("1000", None)
    counts.mark_alive(range(500))
    assert (counts.dead(), counts.predicted()) == (200, 400)
    counts.mark_dead(range(2000))
    with pytest.raises(RunStopped, match="2,000 of the 2,400 rows"):
        failure_limit.raise_if_stopped(manifest)
    counts.forget_dead()
    with pytest.raises(RunStopped, match="2,000 of the 2,400 rows"):  # until it is cleared
        failure_limit.raise_if_stopped(manifest)
    failure_limit.clear(manifest, forget_dead=False)
    failure_limit.raise_if_stopped(manifest)


def test_counting_twice_changes_nothing(tmp_path: Path) -> None:
    """Attempts may be repeated by other workers at any time."""
    for counts in (RowCounts(tmp_path), RowCounts(tmp_path)):
        counts.mark_dead([3, 5, 4_000_000])
        counts.record_chunk(2, 77)
        counts.record_chunk(0, 5)
    assert (counts.dead(), counts.predicted()) == (3, 82)
    counts.forget_dead()
    counts.mark_alive([3])
    assert counts.dead() == 0


def test_a_long_error_keeps_its_head_and_its_tail() -> None:
    """The type and the row stand in front, the reason often at the end."""
    assert one_line("as it is", 8) == "as it is"
    short = one_line("ValueError: " + "x" * 5000 + "\n  the reason", 60)
    assert len(short) == 60
    assert short.startswith("ValueError: xxx")
    assert short.endswith("xxx the reason")


def test_missing_values_are_announced_before_the_run(stage: Stage, tmp_path: Path) -> None:
    """With their number, where rows without a value will be dead; not where they are sent."""
    source, output = tmp_path / "gaps.csv", tmp_path / "out.parquet"
    source.write_text("id,x\na,1\nb,\nc,3\nd,\n")
    words = words_for(source, output, "--max-dead", 2)
    announced = "2 of 4 values are missing in the column 'x': these rows will be dead"
    shown, _ = predict(stage, *words, "--dry-run")
    assert shown["missing"] == {"x": 2}
    shown, _ = predict(stage, *words, "--dry-run", "--allow-nan")
    assert shown["missing"] == {}
    summary, said = predict(stage, *words)
    assert announced in said
    assert summary["dead"] == 2
    [reason] = summary["dead_reasons"]
    assert (reason["rows"], reason["first_row"]) == (2, 1)
    assert reason["reason"].startswith("the feature 'x' has no value")


def test_the_dead_letter_of_an_unreadable_value_names_the_id(stage: Stage, tmp_path: Path) -> None:
    """The other columns miss nothing, and one row is said to be one."""
    source, output = tmp_path / "dirty.csv", tmp_path / "out.parquet"
    source.write_text("id,x,z\n1,30,0.5\n2,31,much\n3,32,1.5\n")
    summary, said = predict(
        stage, *words_for(source, output, "--types", "z=number", "--max-dead", 0), code=5
    )
    assert "missing in the column" not in said
    assert "1 row is dead, more than --max-dead 0 allows" in said
    [dead] = summary["dead_rows"]
    assert (dead["row"], dead["id"]) == (1, 2)
    assert dead["error"].startswith(f"row 1 (id 2) of {source}: the column 'z' holds 'much'")
