"""One type for each column of a run's output: widened without loss, or the row is named."""

from __future__ import annotations

import datetime
import decimal
import math
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.predict.errors import OutputConflict
from peers.predict.outputs.fitting import RequestedColumns, fit, fitted_to, shaped
from peers.predict.outputs.output_type import OutputType, current_type, set_first_type

ANY = RequestedColumns((), ("row", "id"))
UTC = datetime.UTC
NAIVE = datetime.datetime(2020, 1, 1, 5)  # noqa: DTZ001  # as models have them

integers = st.integers(-(2**63), 2**63 - 1) | st.integers(-100, 100)
numbers = integers | st.floats() | st.sampled_from([2**53, 2**53 + 1, 0.5, 1.0, np.float32(0.1)])
leaves = (
    numbers
    | st.booleans()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
    | st.binary(max_size=3)
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC))
    | st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-999, max_value=999)
    | st.timedeltas()
)
keys = st.sampled_from(["a", "b"])
values = st.none() | leaves | st.lists(leaves, max_size=2) | st.dictionaries(keys, leaves)
families = [numbers, st.text(max_size=2), st.booleans(), st.lists(numbers, max_size=2)]
mostly_one = st.sampled_from(families).flatmap(
    lambda common: st.lists(st.lists(common | common | common | values, min_size=1, max_size=4))
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(values, min_size=1, max_size=4), max_size=4) | mostly_one)
def test_every_row_is_exact_in_the_output_or_named(batches: list[list[Any]]) -> None:
    """Whatever the model returns, in any order; Parquet gives the rows back as they were."""
    found, problems = folded(batches)
    flat = [value for batch in batches for value in batch]
    assert len(found) + len(problems) == len(flat)
    for place, value in enumerate(flat):
        assert place in problems or is_same(found[place], value), (value, found.get(place))
        assert problems.get(place, "the model returned").startswith("the model returned")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.none() | st.integers(-(2**53), 2**53) | st.floats(), min_size=1))
    | st.lists(st.lists(st.none() | integers, min_size=1))
    | st.lists(st.lists(st.none() | st.text(max_size=3), min_size=1))
    | st.lists(st.lists(st.none() | st.datetimes(timezones=st.just(UTC)), min_size=1))
    | st.lists(st.lists(st.none() | st.lists(st.none() | st.floats()), min_size=1))
    | st.lists(st.lists(st.fixed_dictionaries({}, optional={"a": st.floats()}), min_size=1))
)
def test_what_has_a_type_in_common_loses_no_row(batches: list[list[Any]]) -> None:
    """Nulls, whole numbers beside others, dicts with more keys, empty lists."""
    _, problems = folded(batches)
    assert not problems or set(problems.values()) == {
        "the model returned a dict without keys, which Parquet cannot hold"
    }


def folded(batches: Sequence[Any]) -> tuple[dict[int, Any], dict[int, str]]:
    """What a run writes of batches that came in this order: rows by place; why others lack."""
    now: OutputType | None = None
    parts = []
    problems: dict[int, str] = {}
    start = 0
    for batch in batches:
        now, fitted = fitted_to(now, ANY, [batch])
        parts.append((fitted.places + start, fitted.table))
        problems |= {start + place: why for place, why in fitted.problems.items()}
        start += len(batch)
    found: dict[int, Any] = {}
    for places, part in parts:
        final = now or OutputType({"prediction": pa.null()}, frozenset(), is_single=True)
        sink = pa.BufferOutputStream()
        pq.write_table(shaped(through_parquet(part), final), sink)
        rows = pq.read_table(pa.BufferReader(sink.getvalue())).to_pylist()
        whole = [row["prediction"] if final.is_single else row for row in rows]
        found |= dict(zip(places.tolist(), whole, strict=True))
    return found, problems


def through_parquet(table: pa.Table) -> pa.Table:
    """As a chunk's part keeps it."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return pq.read_table(pa.BufferReader(sink.getvalue()))


def is_same(found: Any, value: Any) -> bool:
    """Whether nothing of the value was lost; a key that a dict lacks is null."""
    if isinstance(value, dict):
        return found is not None and all(is_same(one, value.get(k)) for k, one in found.items())
    if isinstance(found, dict):  # null where the columns are those of dicts
        return value is None and set(found.values()) == {None}
    if isinstance(value, list):
        return len(found) == len(value) and all(map(is_same, found, value))
    if value is None:
        return found is None
    if isinstance(value, bool) or isinstance(found, bool):
        return found is value
    if isinstance(value, float) and math.isnan(value):
        return isinstance(found, float) and math.isnan(found)
    zones = [getattr(one, "tzinfo", None) is None for one in (found, value)]
    return zones[0] == zones[1] and bool(found == value)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([[1.5, 2.5], ["n/a"]], {2: r"a text \('n/a'\) where its other predictions are numbers"}),
        ([[None], ["a"], [1]], {2: r"a number \(1\) where .* are texts"}),
        ([[1], [True]], {1: r"a boolean \(True\) where .* are numbers"}),
        ([["a"], [b"\x00"]], {1: "bytes .* where .* are texts"}),
        ([[{"a": 1}], [5]], {1: r"a number \(5\) where .* are dicts, of which each key"}),
        ([[{"a": 1}], [{"a": "x"}]], {1: r"a text \('x'\) in the column 'a' where"}),
        ([[2**60 + 1], [0.5]], {1: "0.5, which cannot be stored with .* without loss"}),
        ([[0.5], [2**60 + 1]], {1: "1152921504606846977, which cannot be stored"}),
        ([[NAIVE], [datetime.date(2020, 1, 1)]], {1: "a date .* where"}),
        ([[datetime.date(2020, 1, 1)], [NAIVE]], {1: "a timestamp"}),
        ([[1, "x", object()]], {1: "a text", 2: "<object .*which the output cannot hold"}),
        ([[{}]], {0: "a dict without keys, which Parquet cannot hold"}),
        ([[["a"]], [[{}]]], {1: "a dict without keys|cannot be stored with"}),
    ],
)
def test_what_does_not_fit_is_said_in_words(batches: list[Any], said: dict[int, str]) -> None:
    """With the value, and what the others are."""
    _, problems = folded(batches)
    assert problems.keys() == said.keys()
    for place, pattern in said.items():
        assert re.search(pattern, problems[place]), problems[place]


@pytest.mark.parametrize(
    ("batches", "kind"),
    [
        ([[None], [1], [0.5], [None]], pa.float64()),
        ([np.arange(2, dtype="i4"), np.arange(2, dtype="i8")], pa.int64()),
        ([np.arange(2, dtype="u1"), np.arange(2, dtype="i1")], pa.int16()),
        ([np.arange(2, dtype="f4"), [0.1]], pa.float64()),
        ([np.zeros((1, 2), "i8"), np.zeros((1, 3)), [[]]], pa.list_(pa.float64())),
        ([np.array(["2020-01-01"], "M8[s]"), np.array([1], "M8[ns]")], pa.timestamp("ns")),
        ([[pd.Timestamp(1, unit="ns")], [pd.NaT]], pa.timestamp("ns")),
        ([[decimal.Decimal("1.5")], [decimal.Decimal("12.25"), 7]], pa.decimal128(4, 2)),
        ([pa.array(["a", "b"]).dictionary_encode(), ["c"]], pa.string()),
        ([pa.array(["a"], pa.large_string()), pa.array(["b"], pa.string_view())], pa.string()),
        ([[np.float32(0.5)], [np.int8(1)], [np.bool_(True)][:0]], pa.float64()),
        ([[[]], [[1]], [[0.5, None]]], pa.list_(pa.float64())),
        ([[[{"a": 1}]], [[{"b": "x"}]]], pa.list_(pa.struct({"a": pa.int64(), "b": pa.string()}))),
    ],
)
def test_types_are_widened_without_loss(batches: list[Any], kind: pa.DataType) -> None:
    """Over chunks, as within one."""
    now: OutputType | None = None
    for batch in batches:
        now, fitted = fitted_to(now, ANY, [batch])
        assert fitted.problems == {}
    assert now is not None
    assert now.columns == {"prediction": kind}


def test_chunks_at_once_agree_on_a_type(tmp_path: Path) -> None:
    """Half of them return whole numbers beyond 2**53, half fractions: whoever comes first; every
    other row is named, and all parts fit together.
    """
    set_first_type(tmp_path, fitted_to(None, ANY, [[1]])[0])
    batches = [[2**53 + 1 + n] if n % 2 else [n + 0.5] for n in range(8)]
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        found[number] = fit(tmp_path, ANY, [batches[number], ["x"]])

    threads = [threading.Thread(target=run, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = current_type(tmp_path).type
    assert final is not None
    good = [number for number in range(8) if 0 not in found[number].problems]
    assert good in ([0, 2, 4, 6], [1, 3, 5, 7])
    for number in range(8):
        rows = shaped(found[number].table, final).column("prediction").to_pylist()
        assert rows == (batches[number] if number in good else [])
        assert 1 in found[number].problems
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("later", [["n/a"], [{"a": 1}], [[1]]])
def test_a_model_that_changed_altogether_is_another_run(later: list[Any], tmp_path: Path) -> None:
    """Such as an endpoint that answers in texts since: else every further row would be dead."""
    set_first_type(tmp_path, fitted_to(None, ANY, [[1]])[0])
    with pytest.raises(OutputConflict, match=r"(?s)run's predictions so far are .*int64.*--run"):
        set_first_type(tmp_path, fitted_to(None, ANY, [later])[0])
    set_first_type(tmp_path, fitted_to(None, ANY, [[0.5]])[0])
    set_first_type(tmp_path, None)
    known = current_type(tmp_path).type
    assert known is not None
    assert known.columns == {"prediction": pa.int64()}
