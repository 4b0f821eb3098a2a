"""The predictions of examples/inference/."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.examples.conftest import Example


def test_all_but_the_bad_row_are_predicted(example: Example, tmp_path: Path) -> None:
    """The output has every good row, the bad one is a dead letter, and --max-dead accepts it."""
    work = tmp_path / "work"
    example.python("inference.train", work)
    predict = (
        "peers", "predict", "--model", work / "model.joblib", "--input", work / "rows.csv",
        "--output", work / "predictions.csv", "--id-column", "id", "--run", "example",
        "--workers", "2",
    )  # fmt: skip
    example.run(*predict, code=5)
    assert example.python("inference.compare", work).startswith("1999 of 2000 rows")
    letters = example.run("peers", "dead", "list", "--json").stdout
    assert "an area must not be negative" in letters
    example.run(*predict, "--max-dead", "1")
