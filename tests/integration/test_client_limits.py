"""Limits from Python: the operations in their five forms."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import peers
from peers import AsyncClient, BadLimit, Client, LimitKey, LimitNotFound
from tests.support.server import as_url
from tests.support.world import Peer, rows, run, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    """Return a client of the test's database."""
    with Client(database_url) as made:
        yield made


def test_a_limit_is_set_and_found(client: Client) -> None:
    """With all that it was given; what is left out stays; None clears a value."""
    fields: dict[str, Any] = {
        "kind": "a", "key": "account", "max_running": 8, "starts": 10, "per": "1s",
        "weight": "tokens", "fair": True, "learns": True,
    }  # fmt: skip
    assert client.set_limit("stripe", **fields) is True
    found = client.get_limit("stripe")
    assert {name: getattr(found, name) for name in fields if name != "per"} == {
        name: value for name, value in fields.items() if name != "per"
    }
    assert (found.per, found.most_now, found.queue) == (timedelta(seconds=1), 8, None)
    assert (found.shut_until, found.declared, found.keys) == (None, False, ())
    assert client.set_limit("stripe", max_running=2, weight=None) is False
    found = client.get_limit("stripe")
    assert (found.max_running, found.weight, found.key) == (2, None, "account")
    client.set_limit("gpu", queue="gpu", max_running=1)
    assert [each.name for each in client.find_limits()] == ["gpu", "stripe"]
    assert [each.name for each in client.find_limits(kind="a")] == ["stripe"]
    assert [each.name for each in client.find_limits(queue="gpu")] == ["gpu"]
    client.remove_limit("gpu")
    with pytest.raises(LimitNotFound, match='there is no limit "gpu"'):
        client.get_limit("gpu")
    with pytest.raises(LimitNotFound, match='there is no limit "gpu"'):
        client.remove_limit("gpu")


def test_what_is_refused(client: Client) -> None:
    """Here or by the database: with the name, the bound and the remedy."""
    for fields, reason in (
        ({"kind": "a", "max_running": 0}, "max_running of a limit must be a whole number"),
        ({"kind": "a", "per": "soon"}, "per must be a duration such as"),
        ({"kind": "a", "colour": 1}, "a limit has no field colour. The fields are kind, queue"),
        ({"kind": "a", "fair": None}, "fair of a limit must be True or False"),
        ({"kind": "a", "queue": "b", "max_running": 1}, "give either a kind or a queue"),
        ({"kind": "a"}, "a limit needs max_running"),
    ):
        with pytest.raises(BadLimit) as caught:
            client.set_limit("l", **fields)
        assert reason in str(caught.value)
    with pytest.raises(peers.BadArgument, match="keys must be 0 to 1000, not 1001"):
        client.get_limit("l", keys=1001)
    assert client.find_limits() == []


@peers.task("limits.call")
def call(account: int) -> None:
    """A handler under a limit."""
    del account


def test_a_limit_may_name_its_kind_by_the_task(client: Client) -> None:
    """As every function that is about a kind."""
    client.set_limit("l", kind=call, max_running=1)
    assert [each.kind for each in client.find_limits(kind=call)] == ["limits.call"]
    with pytest.raises(peers.BadArgument, match="kind must be a string or a task"):
        client.find_limits(kind=5)  # type: ignore[arg-type]
    with pytest.raises(peers.BadArgument, match="queue must be a string, not 5"):
        client.find_limits(queue=5)  # type: ignore[arg-type]


@peers.task("limits.pay")
def pay(customer: str, cents: int) -> None:
    """A handler with two args."""
    del customer, cents


def test_paths_are_checked_against_the_task(client: Client) -> None:
    """As @task does; a kind by its name has no annotations."""
    with pytest.raises(BadLimit, match=r"key 'custmer' of a limit .* leads nowhere"):
        client.set_limit("l", kind=pay, key="custmer", max_running=1)
    with pytest.raises(BadLimit, match=r"weight 'customer' of a limit .* is no number"):
        client.set_limit("l", kind=pay, weight="customer", max_running=1)
    assert client.find_limits() == []
    assert client.set_limit("l", kind=pay, key="customer", weight="cents", max_running=1)
    assert not client.set_limit("l", kind="limits.pay", key="custmer")


def test_shut_and_open(client: Client) -> None:
    """For a time, until a time, or until it is opened."""
    client.set_limit("l", kind="a", max_running=1)
    client.shut_limit("l", seconds=60, reason="HTTP 429")
    found = client.get_limit("l")
    assert found.shut_until is not None
    assert 50 < (found.shut_until - datetime.now(UTC)).total_seconds() < 61
    assert found.shut_because == "HTTP 429"
    until = datetime.now(UTC) + timedelta(hours=1)
    client.shut_limit("l", until=until)
    assert client.get_limit("l").shut_until == until
    client.shut_limit("l")
    assert client.get_limit("l").shut_until == datetime.max.replace(tzinfo=UTC)
    assert (client.open_limit("l"), client.open_limit("l")) == (True, False)
    assert client.get_limit("l").shut_until is None
    for wrong, reason in (
        ({"seconds": -1}, "seconds must be more than 0 and at most 10 years"),
        ({"seconds": "0s"}, "seconds must be more than 0 and at most 10 years"),
        ({"seconds": "4000d"}, "not '4000d'"),
        ({"seconds": "soon"}, "seconds must be a duration"),
        ({"until": datetime.now()}, "has no time zone"),  # noqa: DTZ005
        ({"until": "1h30m"}, "until must be a datetime with a time zone, not '1h30m'"),
        ({"until": datetime.now(UTC) - timedelta(hours=1)}, "until must be a time in the future"),
        ({"until": until, "seconds": 1}, "exclude each other"),
    ):
        with pytest.raises(BadLimit, match=reason):
            client.shut_limit("l", **wrong)


def test_keys(client: Client, db: Connection) -> None:
    """What runs and waits under each."""
    client.set_limit("l", kind="a", key="account", max_running=1)
    for account in (7, 7, 7, 8):
        submit(db, "a", args={"account": account})
    peer = Peer.join(db)
    run(db, "select * from peers.claim_limited(%s, 'default', 10, 10, '{}', null)", peer.id)
    found = client.get_limit("l", keys=2)
    assert (found.running, found.waiting) == (2, 2)
    assert found.keys == (
        LimitKey("7", running=1, waiting=2, weight=None, started=None),
        LimitKey("8", running=1, waiting=0, weight=None, started=None),
    )


def test_the_other_forms(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Default client, inside a transaction, and async."""
    monkeypatch.setenv("PEERS_DATABASE_URL", as_url(database_url))
    with psycopg.connect(database_url) as connection:
        peers.set_limit_in(connection, "l", kind="a", max_running=3)
        assert rows(db, "select name from peers.limit") == []
    assert peers.get_limit("l").max_running == 3

    async def main() -> None:
        await peers.set_limit_async("l", max_running=4)
        async with AsyncClient(database_url) as client:
            await client.shut_limit("l", seconds=5)
            assert (await client.get_limit("l")).shut_until is not None
            assert await client.open_limit("l")

    asyncio.run(main())
