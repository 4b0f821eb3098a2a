"""Batches that fail: who is blamed, and how many calls that takes."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from peers import Reject, Retry
from peers.predict.errors import EndpointError, RowError
from peers.predict.tasks.batch_marker import Batch, BatchMarker
from peers.predict.tasks.batch_sizes import MAX_CRASHES
from peers.predict.tasks.isolate import BatchOutcome, isolate, retry_if_endpoint_fails

Isolate = Callable[..., Awaitable[BatchOutcome]]


def blamed(run: Isolate, rows: int, bad_rows: set[int], *, as_array: bool) -> BatchOutcome:
    """What `run` finds out about a model that raises for any batch with a bad row in it."""

    async def call(indices: Sequence[int]) -> Any:
        if bad_rows & set(indices):
            raise ValueError(f"{len(indices)} rows")
        return np.array(indices) * 2 if as_array else [index * 2 for index in indices]

    found: BatchOutcome = asyncio.run(run(list(range(rows)), call))  # type: ignore[arg-type]
    return found


def holds(run: Isolate, seed: int) -> bool:
    """The bad_rows alone are blamed, the others predicted once and in order, in few calls."""
    dice = random.Random(seed)
    rows = dice.randint(1, 300)
    bad_rows = set(dice.sample(range(rows), dice.randint(0, min(5, rows))))
    found = blamed(run, rows, bad_rows, as_array=bool(seed % 2))
    pairs = [
        (index, value)
        for some, values in found.predictions
        for index, value in zip(some, list(values), strict=True)
    ]
    most = 1 + len(bad_rows) * 2 * math.ceil(math.log2(rows)) if rows > 1 else 1
    return (
        found.errors.keys() == bad_rows
        and pairs == [(row, row * 2) for row in range(rows) if row not in bad_rows]
        and found.calls <= most
    )


async def blames_the_batch(indices: Sequence[int], call: Any) -> BatchOutcome:
    """A broken variant: what cannot be predicted together is not tried apart."""
    found = BatchOutcome(calls=1)
    try:
        found.add(indices, await call(indices))
    except ValueError as error:
        found.errors = dict.fromkeys(indices, error)
    return found


async def one_by_one(indices: Sequence[int], call: Any) -> BatchOutcome:
    """Another: right, at the price of batching."""
    found = BatchOutcome()
    for index in indices:
        single = await isolate([index], call)
        found.predictions += single.predictions
        found.errors |= single.errors
        found.calls += single.calls
    return found


def test_culprits_alone_are_blamed_in_few_calls() -> None:
    """Whatever the size of the batch; both broken variants are caught."""
    seeds = range(200)
    assert all(holds(isolate, seed) for seed in seeds)
    assert not all(holds(blames_the_batch, seed) for seed in seeds)
    assert not all(holds(one_by_one, seed) for seed in seeds)


def test_an_exception_in_the_place_of_a_prediction_is_its_rows_alone() -> None:
    """Without a further call."""

    async def call(indices: Sequence[int]) -> list[Any]:
        return [ValueError("odd") if index % 2 else index for index in indices]

    found = asyncio.run(isolate([0, 1, 2, 3], call))
    assert found.errors.keys() == {1, 3}
    assert found.predictions == [([0, 2], [0, 2])]
    assert found.calls == 1


def test_what_is_said_of_the_model_is_not_blamed_on_rows() -> None:
    """It comes through as it is, from the first call and from a later one; so does what the caller
    makes of the first failure.
    """

    async def refuses_few(indices: Sequence[int]) -> list[int]:
        raise Reject("the model is broken") if len(indices) < 4 else ValueError("some row")

    with pytest.raises(Reject, match="broken"):
        asyncio.run(isolate([0, 1, 2, 3], refuses_few))

    async def down(error: Exception, rows: Sequence[int]) -> None:
        assert list(rows) == [0, 1, 2, 3]
        raise Reject(f"it is down: {error}")

    with pytest.raises(Reject, match="down: some row"):
        asyncio.run(isolate([0, 1, 2, 3], refuses_few, down))


def test_a_marker_has_room_for_the_crashed_batches_of_all_attempts(
    tmp_path: Any,
) -> None:
    """Each attempt of a chunk dies of another batch; the last one knows them all."""
    batches = [Batch(number * 1_000_000, 1_000_000) for number in range(MAX_CRASHES)]
    for batch in batches:
        marker = BatchMarker(tmp_path, 3)
        marker.crashed_batches(died=True)
        marker.running(batch).__enter__()
        del marker
    marker = BatchMarker(tmp_path, 3)
    assert marker.crashed_batches(died=False) == tuple(batches[:-1])
    assert marker.crashed_batches(died=True) == tuple(batches)
    marker.remove()
    assert BatchMarker(tmp_path, 3).crashed_batches(died=True) == ()


@pytest.mark.parametrize(
    ("answers", "is_down"),
    [
        (EndpointError("500"), True),
        (RowError("422"), False),
        (ValueError("odd"), False),
        (7, False),
    ],
)
def test_an_endpoint_is_down_only_if_no_row_gets_an_answer(answers: Any, is_down: bool) -> None:
    """Any other answer, even that a row is bad, shows that it works; without rows it is unknown."""

    async def call(indices: Sequence[int]) -> Any:
        if isinstance(answers, Exception):
            raise answers
        return [answers for _ in indices]

    with pytest.raises(Retry) if is_down else nullcontext():
        asyncio.run(retry_if_endpoint_fails(range(100), call, EndpointError("500")))
    asyncio.run(retry_if_endpoint_fails([], call, EndpointError("500")))
    asyncio.run(retry_if_endpoint_fails(range(100), call, ValueError("not the endpoint's")))
