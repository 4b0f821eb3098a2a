"""Limits in code: what the decorator refuses, and what a handler declares."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypedDict

import pytest

from peers import BadLimit, Limit, handlers, task
from peers.handlers import Handler


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty registry."""
    monkeypatch.setattr(handlers, "_registry", {})
    monkeypatch.setattr(handlers, "_limits", {})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "a limit needs max_running, or starts and per, or fair. Write Limit(4)"),
        ({"max_running": 0}, "max_running of a limit must be a whole number, 1 to 1000000, not 0"),
        ({"max_running": 1_000_001}, "1 to 1000000, not 1000001"),
        ({"max_running": True}, "max_running of a limit must be a whole number"),
        ({"max_running": 2.5}, "max_running of a limit must be a whole number"),
        ({"starts": 0, "per": 1}, "starts of a limit must be a whole number, 1 to 1000000, not 0"),
        ({"starts": 3}, "starts and per belong together"),
        ({"max_running": 3, "per": "1s"}, "starts and per belong together"),
        ({"starts": 3, "per": "soon"}, "1 hour\", or a number of seconds, not 'soon'"),
        ({"starts": 3, "per": 0.001}, "per must be 10 milliseconds to 30 days, not 1ms"),
        ({"starts": 3, "per": timedelta(days=31)}, "per must be 10 milliseconds to 30 days"),
        ({"starts": 3, "per": math.nan}, "or a number of seconds, not nan"),
        ({"starts": 3, "per": math.inf}, "or a number of seconds, not inf"),
        ({"starts": 3, "per": [1]}, "per must be a duration such as"),
        ({"max_running": 1, "key": ""}, "key of a limit must be a path into args"),
        ({"max_running": 1, "key": "a..b"}, "such as 'account_id' or 'customer.id', not 'a..b'"),
        ({"max_running": 1, "key": 7}, "key of a limit must be a path into args"),
        ({"max_running": 1, "weight": "a\nb"}, "weight of a limit must be a path into args"),
        ({"starts": 1, "per": 1, "weight": "n"}, "weight needs max_running, which bounds the sum"),
        ({"starts": 1, "per": 1, "learns": True}, "learns needs max_running, which is the most"),
        ({"max_running": 1, "fair": True}, "fair needs a key"),
        ({"max_running": 1, "fair": 1}, "fair of a limit must be True or False, not 1"),
        ({"max_running": 1, "name": ""}, "name of a limit must have 1 to 200 characters, not ''"),
        ({"max_running": 1, "name": "x" * 201}, "name of a limit must have 1 to 200 characters"),
    ],
)
def test_a_malformed_limit_is_refused(values: dict[str, Any], reason: str) -> None:
    """The message has the name, the bound and the remedy."""
    with pytest.raises(BadLimit) as caught:
        Limit(**values)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("per", "seconds"),
    [("1s", 1), ("500ms", 0.5), ("1h30m", 5400), (60, 60), (timedelta(days=1), 86400)],
)
def test_a_period_in_every_form(per: Any, seconds: float) -> None:
    """A text, seconds, or a timedelta."""
    assert Limit(starts=10, per=per).document()["per"] == f"{seconds:.6f} seconds"


def test_a_number_is_no_limit() -> None:
    """The error shows what to write."""
    with pytest.raises(BadLimit, match=r"not 4\. For example, limit=Limit\(4\)"):
        task("mail.send", limit=4)  # type: ignore[call-overload]


def test_one_limit_or_several() -> None:
    """One of them may take the name of the kind."""

    @task("mail.send", limit=Limit(4))
    def send(to: str) -> None: ...

    @task("charge", limit=[Limit(50), Limit(2, key="account", name="charge account")])
    def charge(account: int) -> None: ...

    assert send.handler.declared_limits() == [
        {"name": "mail.send", "kind": "mail.send", "max_running": 4, "fair": False, "learns": False}
    ]
    assert [each["name"] for each in charge.handler.declared_limits()] == [
        "charge", "charge account",
    ]  # fmt: skip


def test_names_must_differ() -> None:
    """Within a kind and between kinds; at most four hold for a task."""
    with pytest.raises(BadLimit, match="have the same name: a, a"):
        task("a", limit=[Limit(1), Limit(2)])(lambda: None)
    with pytest.raises(BadLimit, match="at most 4 limits may hold for one task, not 5"):
        task("a", limit=[Limit(1, name=str(n)) for n in range(5)])(lambda: None)
    task("a", limit=Limit(1, name="shared"))(lambda: None)
    with pytest.raises(
        BadLimit, match=r"kind 'a' already has a limit 'shared'.*one of their queue"
    ):
        task("b", limit=Limit(1, name="shared"))(lambda: None)


@dataclass
class Region:
    """A part of a customer."""

    name: str
    parent: Region | None = None


@dataclass
class Customer:
    """A value with fields."""

    id: int
    regions: list[Region] = field(default_factory=list)
    tags: dict[str, int] = field(default_factory=dict)


class Pair(NamedTuple):
    """A value with positions and names."""

    left: str
    right: float


class Options(TypedDict, total=False):
    """A dict with known keys."""

    tokens: int


def everything(
    account: int, customer: Customer, pair: Pair, options: Options, free: Any, text: str,
    either: Customer | str, data: dict[str, Any], later: Unknown,  # type: ignore[name-defined]  # noqa: F821
) -> None:  # fmt: skip
    """Take args of every sort."""


@pytest.mark.parametrize(
    "path",
    [
        "account", "customer", "customer.id", "customer.regions.0.name", "customer.tags.x",
        "customer.regions.-1.parent.parent.name", "pair.0", "pair.right", "options.tokens",
        "free.a.b", "either.id", "data.x.y", "later.a",
    ],
)  # fmt: skip
def test_a_key_that_args_may_have(path: str) -> None:
    """By the annotations, or because they do not say."""
    handler = Handler("k", everything, limits=(Limit(1, key=path),))
    with pytest.warns(UserWarning, match="later"):
        assert handler.declared_limits()[0]["key"] == path


@pytest.mark.parametrize(
    "path",
    [
        "acount", "account.id", "customer.ident", "customer.regions.name", "customer.tags.x.y",
        "pair.2", "pair.middle", "options.token", "text.0", "either.name",
    ],
)  # fmt: skip
def test_a_key_that_leads_nowhere_is_refused(path: str) -> None:
    """With the path and the kind, at the start of a peer."""
    handler = Handler("k", everything, limits=(Limit(1, key=path),))
    with (
        pytest.warns(UserWarning, match="later"),
        pytest.raises(BadLimit, match=f"key '{path}' of a limit of 'k' leads nowhere"),
    ):
        handler.declared_limits()


def test_a_weight_is_a_number() -> None:
    """By the annotations."""

    def take(tokens: int, share: float, name: str) -> None: ...

    for path in ("tokens", "share"):
        Handler("k", take, limits=(Limit(9, weight=path),)).declared_limits()
    for path, reason in (("name", "is no number"), ("token", "leads nowhere")):
        with pytest.raises(BadLimit, match=f"weight '{path}' of a limit of 'k' {reason}"):
            Handler("k", take, limits=(Limit(9, weight=path),)).declared_limits()


def test_further_names_and_batches() -> None:
    """A handler that takes any names may have any key; a batch handler has those of an element."""

    def rest(**more: str) -> None: ...

    def batch(rows: list[Customer]) -> None: ...

    Handler("k", rest, limits=(Limit(1, key="anything"),)).declared_limits()
    Handler("k", batch, batch_size=3, limits=(Limit(1, key="id"),)).declared_limits()
    with pytest.raises(BadLimit, match="leads nowhere"):
        Handler("k", batch, batch_size=3, limits=(Limit(1, key="rows"),)).declared_limits()
