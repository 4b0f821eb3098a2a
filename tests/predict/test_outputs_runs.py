"""Outputs of whole runs: columns, carried ones, and one type over all chunks."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from tests.e2e.harness import Stage
from tests.predict.conftest import ROWS
from tests.predict.runs import numbers, predict, results

MODELS = "tests.predict.models_with_columns"


def test_a_model_of_many_moods_loses_only_the_rows_that_do_not_fit(
    stage: Stage, tmp_path: Path
) -> None:
    """The smoke test sees null, the first chunk integers and fractions, the second fractions."""
    output = tmp_path / "out.parquet"
    words = ["--model", f"{MODELS}:moody", "--input", numbers(tmp_path), "--output", output]
    summary, _ = predict(stage, *words, "--id-column", "id", "--workers", 2)
    errors = {dead["row"]: dead["error"] for dead in summary["dead_rows"]}
    assert errors.keys() == {17, 2500}
    assert "the model returned a boolean (True) where its other predictions" in errors[17]
    assert "a text ('n/a') where its other predictions are numbers" in errors[2500]
    expected = [None if x < 10 else x / 2 if x >= 1000 else float(x) for x in range(ROWS)]
    assert results(output) == [(x, expected[x]) for x in range(ROWS) if x not in errors]


def test_columns_and_carried_ones_are_in_the_output_also_of_rows_alone(
    stage: Stage, tmp_path: Path
) -> None:
    """A batch that raises is predicted row by row; its columns are those of the others."""
    output = tmp_path / "out.csv"
    source = numbers(tmp_path, {100: -1, 2900: -1})
    words = ["--model", f"{MODELS}:labelled", "--input", source, "--output", output]
    words += ["--columns", "score,label", "--carry", "x,id", "--workers", 2]
    _, said = predict(stage, *words[:6], "--columns", "scores", code=1)
    assert "returns no column 'scores'" in said
    assert "label, score" in said
    summary, _ = predict(stage, *words)
    assert summary["dead"] == 2
    with output.open(newline="") as stream:
        assert next(csv.reader(stream)) == ["row", "x", "id", "score", "label"]
    found = pd.read_csv(output)
    good = [row for row in range(ROWS) if row not in {100, 2900}]
    assert found["row"].tolist() == good
    assert found["x"].tolist() == list(map(float, good))
    assert found["id"].tolist() == [f"r{row}" for row in good]
    assert found["score"].tolist() == [row / 2 for row in good]
    assert found["label"].tolist() == ["odd" if row % 2 else "even" for row in good]
