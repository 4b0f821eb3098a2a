"""Models behind HTTP: what each answer means, and where each request goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

import pyarrow as pa
import pytest

from peers.predict.errors import EndpointError, ModelError, RowError
from peers.predict.models import Busy, Trust, Unavailable, load, resolve
from peers.predict.models.access import access_of
from peers.predict.models.transport import retry_after
from peers.predict.spec import Access
from tests.predict.endpoint import Endpoint


def ask(endpoint: Endpoint, access: Access = Access()) -> Any:  # noqa: B008 - frozen
    """What the model says about three rows."""
    model = load(resolve(endpoint.url, None, access=access), Trust())
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
        (429, {"retry-after": "7"}, {}, Busy, "after 7 s"),
        (429, {}, {}, Busy, "after 1 s"),
        (503, {"retry-after": "2"}, {}, Busy, "after 2 s"),
        (503, {}, {}, Unavailable, "503"),
        (500, {}, {"why": "broken"}, EndpointError, "broken"),
        (400, {}, {"why": "bad row"}, RowError, "bad row"),
        (404, {}, {}, ModelError, "404"),
        (408, {}, {}, EndpointError, "408"),
        (200, {}, {"predictions": [1]}, ModelError, "1 result for 3 rows"),
        (200, {}, ["what"], ModelError, "no predictions"),
        (200, {}, {"predictions": "no"}, ModelError, "not a list"),
        (302, {"location": "/elsewhere"}, {}, ModelError, "redirects to /elsewhere"),
        (400, {}, {"why": "a" * 5000 + "the point"}, RowError, "the point"),
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


@contextmanager
def another() -> Iterator[Endpoint]:
    """A second server on this machine."""
    made = Endpoint()
    thread = Thread(target=made.server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


@pytest.mark.parametrize("status", [200, 201, 203])
@pytest.mark.parametrize("chunked", [False, True])
def test_what_succeeds_is_an_answer(endpoint: Endpoint, status: int, chunked: bool) -> None:
    """Whatever success it is, and in however many pieces it comes."""
    endpoint.answers = [(status, {}, {"predictions": [1, 2, 3]})]
    endpoint.chunked = chunked
    assert ask(endpoint) == [1, 2, 3]


@pytest.mark.parametrize("status", [307, 308])
def test_a_request_is_repeated_where_it_is_sent_on_to(endpoint: Endpoint, status: int) -> None:
    """As a POST of the same rows, with the same headers, if it is the same host."""
    endpoint.answers = [(status, {"location": "/elsewhere"}, {})]
    assert ask(endpoint, Access((("x-team", "blue"),))) == [2.0, 4.0, 6.0]
    first, second = endpoint.asked
    assert (first.method, second.method, second.path) == ("POST", "POST", "/elsewhere")
    assert first.body == second.body
    assert second.headers["x-team"] == "blue"


def test_another_host_gets_no_header_of_ours(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a secret nor another one; also not on the way back through it."""
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "s3cret")
    access = access_of(["x-team: blue"], None, None, "TOKEN_OF_THE_TEST", None)
    with another() as other:
        endpoint.answers = [(307, {"location": other.url}, {})]
        assert ask(endpoint, access) == [2.0, 4.0, 6.0]
        [there] = other.asked
    assert endpoint.asked[0].headers["authorization"] == "Bearer s3cret"
    assert there.headers.keys().isdisjoint({"authorization", "x-team"})
    assert "s3cret" not in str(there)


def test_a_circle_of_redirections_ends(endpoint: Endpoint) -> None:
    """With what is the matter."""
    endpoint.respond = lambda _: (307, {"location": endpoint.url}, {})
    with pytest.raises(ModelError, match="more than 5 times"):
        ask(endpoint)
