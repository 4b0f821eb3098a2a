"""What was found wrong in practice, by its name: each predicts now what the model says itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from peers.predict import inputs, models
from peers.predict.models import Signature
from tests.e2e.harness import Stage
from tests.predict.matrix.cells import planned
from tests.predict.matrix.formats import Written
from tests.predict.runs import predict, results

_RANDOM = np.random.default_rng(1)
_ROWS = 200


def _said(model: Any, path: Path, frame: pd.DataFrame) -> list[Any]:
    """What the run's path says about the file with this model."""
    file = path.parent / "model.joblib"
    joblib.dump(model, file)
    loaded = models.load(models.resolve(str(file), None), models.Trust((path.parent,)))
    manifest, chunks = planned(Written(str(path), None, frame), loaded.signature, path.parent, {})
    found: list[Any] = []
    for chunk in chunks:
        rows = inputs.read(manifest.input, chunk, list(manifest.features))
        assert not rows.bad
        found += np.asarray(loaded.predict(manifest.features_of(rows.table))).tolist()
    return found


def _column(path: Path, signature: Signature | None = None) -> tuple[pa.DataType, list[Any]]:
    """The type and the values of the first column of an input."""
    written = Written(str(path), None, pd.DataFrame())
    manifest, chunks = planned(written, signature or Signature(), path.parent, {})
    tables = [inputs.read(manifest.input, one, list(manifest.features)).table for one in chunks]
    column = pa.concat_tables(tables).column(0)
    return column.type, column.to_pylist()


def _encoder(frame: pd.DataFrame, labels: Any) -> Any:
    """It looks at one column, as a category."""
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["x"]))
    return make_pipeline(encoder, DecisionTreeClassifier()).fit(frame, labels)


def test_true_and_false_in_capitals_are_booleans(tmp_path: Path) -> None:
    """The accuracy fell from 1.000 to 0.555."""
    path = tmp_path / "rows.csv"
    truth = _RANDOM.random(_ROWS) > 0.5
    path.write_text("x\n" + "\n".join("TRUE" if one else "FALSE" for one in truth) + "\n")
    frame = pd.read_csv(path)
    assert _said(_encoder(frame, truth), path, frame) == truth.tolist()


def test_a_code_with_a_leading_zero_stays_a_text(tmp_path: Path) -> None:
    """01067 was read as 1067.0, also where JSON has it in quotes, and where the model knows it."""
    json_lines, csv = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    json_lines.write_text('{"x": "01067"}\n{"x": "10115"}\n')
    assert _column(json_lines) == (pa.string(), ["01067", "10115"])
    csv.write_text("x\n01067\n10115\n" * 1)
    frame = pd.read_csv(csv, dtype=str)
    assert _said(_encoder(frame, [0, 1]), csv, frame) == [0, 1]


def test_a_whole_number_beyond_2_to_the_53_is_exact(tmp_path: Path) -> None:
    """9007199254740993 became …992."""
    for name, text in (
        ("rows.csv", "x\n9007199254740993\n1\n"),
        ("rows.jsonl", '{"x": 9007199254740993}\n{"x": 1}\n'),
    ):
        (tmp_path / name).write_text(text)
        assert _column(tmp_path / name) == (pa.int64(), [9007199254740993, 1])


def test_texts_that_come_late_lose_no_rows(tmp_path: Path) -> None:
    """A column that begins empty, or with a thousand numbers, and goes on with texts."""
    for first in ([""] * 1500, [str(row) for row in range(1500)]):
        path = tmp_path / "rows.csv"
        values = [*first, "V0001", "V0002"]
        path.write_text("x,y\n" + "".join(f"{value},1\n" for value in values))
        type_, found = _column(path)
        assert type_ == pa.string()
        assert found == [value or None for value in values]


def test_ids_keep_their_zeros(tmp_path: Path) -> None:
    """1000 … 1999, and then 0042, which was written as 42."""
    path = tmp_path / "rows.csv"
    ids = [*map(str, range(1000, 2000)), "0042"]
    path.write_text("id,x\n" + "".join(f"{one},1\n" for one in ids))
    with inputs.survey(inputs.Source(str(path), id_column="id"), tmp_path) as survey:
        found = survey.with_types(survey.schema, tmp_path)
    chunks = inputs.chunks(found, 5000)
    assert inputs.read(found, chunks[0], ["id"]).table.column("id").to_pylist() == ids


def test_gaps_in_texts_are_those_that_the_model_knows(tmp_path: Path) -> None:
    """68 of 200 predictions differed, because gaps came as None where the encoder knew NaN."""
    path = tmp_path / "rows.csv"
    words = [["red", "", "blue"][row * 7 % 3] for row in range(_ROWS)]
    path.write_text("x,y\n" + "".join(f"{word},{row}\n" for row, word in enumerate(words)))
    frame = pd.read_csv(path)
    labels = frame["x"].isna().to_numpy()
    model = _encoder(frame, labels)
    assert _said(model, path, frame) == labels.tolist() == model.predict(frame).tolist()


def test_na_null_and_none_are_gaps_in_a_csv_and_texts_in_json(tmp_path: Path) -> None:
    """As for pandas, whatever is around them."""
    (tmp_path / "rows.csv").write_text("x,y\nNA,1\nNULL,1\nNone,1\nred,1\n")
    assert _column(tmp_path / "rows.csv")[1] == [None, None, None, "red"]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"x": one}) + "\n" for one in ("NA", "NULL", "None", None))
    )
    assert _column(tmp_path / "rows.jsonl")[1] == ["NA", "NULL", "None", None]


def test_a_pipeline_of_a_data_frame_predicts_through_the_command(
    stage: Stage, tmp_path: Path
) -> None:
    """Booleans, codes, gaps that the model fills and an index of pandas: as in one process.

    What was decided is said before anything is submitted.
    """
    frame = pd.DataFrame(
        {
            "a b": np.where(np.arange(_ROWS) % 9 == 0, np.nan, _RANDOM.normal(size=_ROWS)),
            "vip": _RANDOM.random(_ROWS) > 0.5,
            "zip": _RANDOM.choice(["01067", "10115"], _ROWS),
        },
        index=pd.Index(range(5, _ROWS + 5), name="key"),
    )
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    by_columns = make_column_transformer(
        (numbers, ["a b"]), (OneHotEncoder(), ["zip"]), ("passthrough", ["vip"])
    )
    labels = frame["vip"] ^ (frame["zip"] == "01067")
    model = make_pipeline(by_columns, LogisticRegression()).fit(frame, labels)
    joblib.dump(model, tmp_path / "model.joblib")
    frame.to_parquet(tmp_path / "rows.parquet")
    output = tmp_path / "out.parquet"
    words = ["--model", tmp_path / "model.joblib", "--input", tmp_path / "rows.parquet"]
    words += ["--output", output, "--workers", 1, "--batch-size", 50]
    summary, said = predict(stage, *words)
    assert (summary["predicted"], summary["dead"]) == (_ROWS, 0)
    assert [one for _, one in results(output)] == model.predict(frame).tolist()
    assert said.index("zip") < said.index(summary["run"])


def test_a_dry_run_says_what_the_model_would_get_and_leaves_nothing(
    stage: Stage, tmp_path: Path
) -> None:
    """The types with their sources and the first rows, also as JSON; no task, no folder."""
    frame = pd.DataFrame({"n": [1, 2, 3], "x": ["01067", "10115", "01067"]})
    joblib.dump(_encoder(frame, [0, 1, 0]), tmp_path / "model.joblib")
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "rows.parquet")
    before = sorted(tmp_path.iterdir())
    words = ["--model", tmp_path / "model.joblib", "--input", tmp_path / "rows.parquet"]
    words += ["--output", tmp_path / "out.parquet", "--dry-run", "--types", "n=number"]
    found, _ = predict(stage, *words)
    assert found["features"] == ["n", "x"]
    assert [(one["type"], one["source"]) for one in found["columns"]] == [
        ("number", "--types"), ("text", "model"),
    ]  # fmt: skip
    assert found["first"][0] == {"n": 1.0, "x": "01067"}
    _, said = predict(stage, *words[:-1], "x=integer", code=1)
    assert "--types x=integer contradicts model.joblib" in said
    assert sorted(tmp_path.iterdir()) == before
    assert stage.rows("select * from peers.task") == []
