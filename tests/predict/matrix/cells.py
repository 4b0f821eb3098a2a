"""One cell: what `peers predict` says about an input, beside what the model itself says."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from threadpoolctl import threadpool_limits

from peers.predict import inputs, models
from peers.predict.errors import PredictError
from peers.predict.inputs import whole_columns
from peers.predict.inputs.column_options import ColumnOptions
from peers.predict.inputs.column_types import decide
from peers.predict.models.frames import frame as frame_of
from peers.predict.predictions import Columns
from peers.predict.spec import Chunk, Manifest, ModelRef
from peers.predict.tasks.row_checks import invalid_rows
from tests.predict.matrix.formats import Format, Written
from tests.predict.matrix.learners import Fitted, Learner, Unfit
from tests.predict.matrix.oddities import Oddity

_CHUNK: Final = 400
Result = Literal["same", "refused", "different", "none"]


@dataclass(frozen=True)
class Cell:
    """What came out. `why`: of a refusal, or where the two differ."""

    name: str
    result: Result
    why: str = ""


def cells_of(source: Written, format_: Format, oddity: Oddity, learners: tuple[Learner, ...],
             folder: Path) -> Iterator[Cell]:  # fmt: skip
    """The cells of an input: its frame itself first, then each model."""
    name = f"{format_.name} x {oddity.name}"
    yield _guarded(f"frame x {name}", lambda: _same_frame(source, folder, oddity))
    for learner in learners:
        cell = f"{learner.name} x {name}"
        try:
            fitted = learner.fit(source.frame, folder)
        except Exception:  # noqa: BLE001  # nobody can fit this either: there is no such cell
            continue
        yield _guarded(cell, lambda: _same_predictions(source, fitted, folder))  # noqa: B023


def _guarded(name: str, compare: Any) -> Cell:
    try:
        with warnings.catch_warnings(), threadpool_limits(1):  # threads would wait for one another
            warnings.simplefilter("ignore")
            result, why = compare()
    except PredictError as error:
        return Cell(name, "refused", str(error))
    except Unfit:
        return Cell(name, "none")
    return Cell(name, result, why)


def _same_frame(source: Written, folder: Path, oddity: Oddity) -> tuple[Result, str]:
    """The frame that a model gets, whose only word is that texts are texts, where they are."""
    signature = models.Signature(form="frame", is_estimator=True)
    types = {"odd": "text"} if oddity.texts and source.place.endswith(".csv") else {}
    plan = planned(source, signature, folder, types)
    found = pd.concat(
        [frame_of(table, {}, table.column_names) for table, _ in _tables(*plan)], ignore_index=True
    )
    there = source.frame.reset_index(drop=True)[found.columns.tolist()]
    try:
        pd.testing.assert_frame_equal(found, there, check_exact=True)
        _same_gaps(found, there)
    except AssertionError as error:
        return "different", " ".join(str(error).split())
    return "same", ""


def _same_gaps(found: pd.DataFrame, there: pd.DataFrame) -> None:
    """Pandas takes NaN and None for equal: encoders do not."""
    for name in there:
        if there[name].dtype == object:
            kinds = [[type(v) for v in one[name]] for one in (found, there)]
            assert kinds[0] == kinds[1], f"{name}: {set(kinds[0])} where pandas has {set(kinds[1])}"


def _same_predictions(source: Written, fitted: Fitted, folder: Path) -> tuple[Result, str]:
    """Bit for bit what the model says about the same rows of the frame of the whole file.

    And, but for the last bits that its arithmetic changes with the number of rows, what it says
    about all rows at once.
    """
    reference = models.resolve(str(fitted.path), fitted.method)
    model = models.load(reference, models.Trust((fitted.path.parent,)))
    manifest, chunks = planned(source, model.signature, folder, {})
    whole = fitted.prepared(source.frame.reset_index(drop=True))
    said: list[Any] = []
    direct: list[Any] = []
    fit: list[int] = []
    dead: list[str] = []
    for chunk in chunks:
        table, bad = _table(manifest, chunk)
        good = [index for index in range(table.num_rows) if index not in bad]
        rows = [chunk.first + index for index in good]
        dead += bad.values()
        fit += rows
        if good:
            found = _outcome(partial(model.predict, table.take(pa.array(good, pa.int64()))))
            expected = _outcome(partial(fitted.direct, _rows(whole, rows)))
            if found is None and expected is None:
                return "refused", "the model raises, in the same way"
            if found is None or expected is None:
                return "different", f"the model raises {'here' if found is None else 'there'} only"
            said.append(found)
            direct.append(expected)
    if not said:
        return "refused", dead[0]
    differing = int((np.concatenate(said) != np.concatenate(direct)).any(axis=1).sum())
    if differing:
        return "different", f"{differing} of {len(fit)} predictions differ"
    try:
        at_once = np.asarray(fitted.direct(whole))
    except Exception as error:  # noqa: BLE001
        return ("same", "") if dead else ("different", f"the model raises {error}")
    if dead:
        return "different", f"{len(dead)} rows are dead: {dead[0]}"
    is_same = np.allclose(np.concatenate(said), at_once, rtol=1e-12, atol=0)
    return ("same", "") if is_same else ("different", "the whole at once differs")


def _outcome(call: Callable[[], Any]) -> Any:
    """What the model returns; None if it raises."""
    try:
        found = call()
        if isinstance(found, Columns):
            return np.column_stack(list(found.values.values()))
        return np.asarray(found)
    except Exception:  # noqa: BLE001  # whatever a model raises
        return None


def _rows(whole: Any, rows: list[int]) -> Any:
    return whole[rows] if isinstance(whole, np.ndarray) else whole.iloc[rows]


def planned(
    source: Written, signature: models.Signature, folder: Path, types: dict[str, Any]
) -> tuple[Manifest, list[Chunk]]:
    """The run of such a model on the input, and its chunks."""
    kept = Path(tempfile.mkdtemp(dir=folder))
    question = ColumnOptions("the model", types)
    where = inputs.Source(source.place, source.query)
    with inputs.survey(where, kept) as survey:
        decision = decide(signature, survey.schema, question, {})
        found = whole_columns.with_missing_values(survey.with_types(decision.schema, kept))
    manifest = Manifest(
        run="cell", name=None, model=ModelRef("sklearn", "m", "d"), input=found,
        source="in", id_column=None, features=decision.features, output=str(folder / "out.parquet"),
        batch_size=_CHUNK, chunk_rows=_CHUNK, rows_per_second=None, call_seconds=None,
        max_attempts=3, timeout=None, asynchronous=False,
        required=decision.required, chunks=1, concurrency=None,
    )  # fmt: skip
    return manifest, inputs.chunks(found, _CHUNK)


def _tables(manifest: Manifest, chunks: list[Chunk]) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    for chunk in chunks:
        yield _table(manifest, chunk)


def _table(manifest: Manifest, chunk: Chunk) -> tuple[pa.Table, dict[int, str]]:
    rows = inputs.read(manifest.input, chunk, list(manifest.features))
    return manifest.features_of(rows.table), invalid_rows(rows, manifest)
