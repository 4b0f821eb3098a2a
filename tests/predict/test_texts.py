"""What people are told of an error: its type always, and both ends of a long text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from peers.predict.errors import RowError
from peers.predict.tasks.isolate import as_exception
from peers.predict.tasks.response_cache import ResponseCache, request_key
from peers.predict.texts import error_text, shortened
from tests.e2e.harness import Stage
from tests.predict.runs import MODELS, numbers, predict


class Mute(Exception):  # noqa: N818 - what it is
    """One whose text raises."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(), "ValueError"),
        (AssertionError(" \n"), "AssertionError"),
        (Mute(), "Mute"),
        (KeyError("x"), "KeyError: 'x'"),
        (SystemExit(), "SystemExit"),
    ],
)
def test_an_error_is_told_by_its_type(error: BaseException, text: str) -> None:
    """Whether or not it has a text."""
    assert error_text(error) == text


def test_the_exit_of_a_model_is_told() -> None:
    """With its code, if it has one."""
    assert str(as_exception(SystemExit(3))) == "SystemExit: 3"
    assert str(as_exception(SystemExit())) == "SystemExit"


@pytest.mark.parametrize("most", [10, 11, 100])
def test_a_long_text_keeps_both_ends(most: int) -> None:
    """And is as long as it may be."""
    text = "head" + "x" * 1000 + "tail"
    cut = shortened(text, most)
    assert len(cut) == most
    assert (cut[:3], cut[-3:]) == ("hea", "ail")
    assert " … " in cut
    assert shortened("a" * most, most) == "a" * most


def test_a_row_that_died_without_a_text_names_the_type(stage: Stage, tmp_path: Path) -> None:
    """So does one whose error cannot be told at all; and a long one says how it ends."""
    source = numbers(tmp_path, {3: -11, 5: -12, 7: -13}, rows=12)
    words = ["--model", f"{MODELS}:taciturn", "--input", source, "--id-column", "id"]
    words += ["--output", tmp_path / "out.parquet", "--workers", 1, "--max-attempts", 1]
    summary, _ = predict(stage, *words, "--max-dead", 3)
    errors = {dead["row"]: dead["error"] for dead in summary["dead_rows"]}
    assert errors[3].endswith(": AssertionError")
    assert errors[5].endswith("Mute")
    assert "ValueError: begins" in errors[7]
    assert errors[7].endswith("the point")


@pytest.mark.parametrize(
    "predictions",
    [
        [1.0, "a", None, {"b": [1]}],
        np.array([0.1, float("nan"), 3.0]),
        np.array([[1, 2], [3, 4]], np.float32),
        np.array([True, False]),
    ],
)
def test_answers_that_are_kept_are_what_they_were(tmp_path: Path, predictions: Any) -> None:
    """In type and value, for the next attempt and the one after it; each is taken once."""
    first = ResponseCache(tmp_path, 1)
    first.add("a", predictions)
    first.save()
    ResponseCache(tmp_path, 1).save()  # it was snoozed again, without asking for anything
    third = ResponseCache(tmp_path, 1)
    found = third.take("a")
    assert type(found) is type(predictions)
    np.testing.assert_array_equal(np.array(found), np.array(predictions))
    assert getattr(found, "dtype", None) == getattr(predictions, "dtype", None)
    assert third.take("a") is None
    third.delete()
    assert ResponseCache(tmp_path, 1).take("a") is None


def test_an_error_in_the_place_of_an_answer_is_kept(tmp_path: Path) -> None:
    """As that of its row."""
    answers = ResponseCache(tmp_path, 1)
    answers.add("a", [1, RowError("too dark"), 3])
    answers.save()
    found = ResponseCache(tmp_path, 1).take("a")
    assert isinstance(found, list)
    assert (found[0], str(found[1]), type(found[1])) == (1, "too dark", RowError)


def test_a_key_tells_rows_apart() -> None:
    """By their values, wherever they lie in memory."""
    table = pa.table({"x": [1.0, 2.0, 1.0]})
    assert (
        request_key(table.slice(0, 1))
        == request_key(table.slice(2, 1))
        != request_key(table.slice(1, 1))
    )
