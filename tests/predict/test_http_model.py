"""Models behind HTTP: what each answer means, and that all callers heed a 429 together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from peers import Retry
from peers.predict.errors import EndpointError, ModelError, RowError
from peers.predict.models import Away, Busy, Trust, load, predict_patiently, resolve
from peers.predict.models.http import retry_after
from tests.predict.endpoint import Endpoint

ROW = pa.table({"x": [1.0]})


def ask(endpoint: Endpoint) -> Any:
    """What the model says about three rows."""
    model = load(resolve(endpoint.url, None), Trust())
    return asyncio.run(model.predict_async(pa.table({"x": [1.0, 2.0, 3.0]})))


def test_rows_go_out_and_predictions_come_back_in_order(endpoint: Endpoint) -> None:
    """One request; an error in the place of a prediction is that row's."""
    assert ask(endpoint) == [2.0, 4.0, 6.0]
    endpoint.answers = [(200, {}, {"predictions": [1, {"error": "too dark"}, 3]})]
    first, second, third = ask(endpoint)
    assert (first, third) == (1, 3)
    assert isinstance(second, RowError)


@pytest.mark.parametrize(
    ("status", "headers", "answer", "error", "says"),
    [
        (429, {"retry-after": "7"}, {}, Busy, "in 7 s"),
        (429, {}, {}, Busy, "in 1 s"),
        (503, {"retry-after": "2"}, {}, Busy, "in 2 s"),
        (503, {}, {}, Away, "503"),
        (500, {}, {"why": "broken"}, EndpointError, "broken"),
        (400, {}, {"why": "bad row"}, RowError, "bad row"),
        (404, {}, {}, ModelError, "404"),
        (200, {}, {"predictions": [1]}, ModelError, "1 result for 3 rows"),
        (200, {}, ["what"], ModelError, "something else"),
    ],
)
def test_each_answer_means_what_it_should(
    endpoint: Endpoint, status: int, headers: dict[str, str], answer: Any,
    error: type[Exception], says: str,
) -> None:  # fmt: skip
    """Come back later, try again, look at the rows one by one, or give up."""
    endpoint.answers = [(status, headers, answer)]
    with pytest.raises(error, match=says):
        ask(endpoint)


def test_retry_after_may_be_a_date_by_the_servers_own_clock() -> None:
    """However wrong that clock is."""
    date = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}
    assert retry_after(date) == 30.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


class Clock:
    """A time that only sleeping moves, and a hold-off that all callers share."""

    def __init__(self) -> None:
        self.now = 0.0
        self.until = 0.0
        self.told = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def held_off(self) -> float:
        return max(0.0, self.until - self.now)

    async def hold_off(self, seconds: float, reason: str) -> None:
        assert reason
        self.until = max(self.until, self.now + seconds)
        self.told.set()


HeldOff = Callable[[], Awaitable[float]]


def too_early(endpoint: Endpoint, held_off: Callable[[Clock], HeldOff]) -> bool:
    """Whether a second caller sends before the hold-off that the first was told is over."""
    clock = Clock()
    sent: list[float] = []
    model = load(resolve(endpoint.url, None), Trust())
    endpoint.answers = [(429, {"retry-after": "60"}, {})]

    async def call() -> Any:
        sent.append(clock.now)
        return await model.predict_async(ROW)

    async def both() -> list[Any]:
        one = asyncio.create_task(
            predict_patiently(call, clock.held_off, clock.hold_off, clock.sleep)
        )
        await clock.told.wait()
        clock.now = 1.0
        two = await predict_patiently(call, held_off(clock), clock.hold_off, clock.sleep)
        return [await one, two]

    assert asyncio.run(both()) == [[2.0], [2.0]]
    assert len(sent) == 3
    return any(at < 60 for at in sent[1:])


def test_all_callers_stay_away_for_as_long_as_one_was_told(endpoint: Endpoint) -> None:
    """And a caller who does not ask first is caught by the same test."""
    assert not too_early(endpoint, lambda clock: clock.held_off)

    async def deaf() -> float:
        return 0.0

    assert too_early(endpoint, lambda _: deaf)


def test_an_endpoint_that_is_away_is_waited_for_together_and_not_for_ever(
    endpoint: Endpoint,
) -> None:
    """Pauses that all heed, longer each time; when it is back the rows are predicted, and when it
    does not come back the attempt ends with what it said.
    """
    clock = Clock()

    def ask_patiently() -> Any:
        call = partial(load(resolve(endpoint.url, None), Trust()).predict_async, ROW)
        return asyncio.run(predict_patiently(call, clock.held_off, clock.hold_off, clock.sleep))

    endpoint.answers = [(502, {}, {})] * 3
    assert ask_patiently() == [2.0]
    assert 7 <= clock.now < 14  # 1 + 2 + 4 s, and jitter
    endpoint.answers = [(503, {}, {"why": "gone"})] * 100
    with pytest.raises(Retry, match="gone"):
        ask_patiently()
    assert endpoint.requests < 40
