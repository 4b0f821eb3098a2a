"""Cooldowns: all peers respect a cooldown that one of them starts; the longest one counts."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.support.server import Connection
from tests.support.world import advance, column


def held(db: Connection, name: str) -> timedelta:
    """For how long it is still to be left alone."""
    [left] = column(db, "select peers.cooldown_left(%s)", name)
    assert isinstance(left, timedelta)
    return left


def test_a_cooldown_lasts_until_the_latest_end_and_no_longer(db: Connection) -> None:
    """A shorter one does not end a longer one before its time; others' names are not affected."""
    assert held(db, "a") == timedelta(0)
    db.execute("select peers.start_cooldown('a', '60 s', 'slow down')")
    db.execute("select peers.start_cooldown('a', '5 s')")
    assert timedelta(seconds=55) < held(db, "a") <= timedelta(seconds=60)
    assert column(db, "select reason from peers.cooldown where name = 'a'") == ["slow down"]
    assert held(db, "b") == timedelta(0)
    advance(db, "61 s")
    assert held(db, "a") == timedelta(0)


@pytest.mark.parametrize(
    ("name", "span"), [("a", "0 s"), ("a", "-1 s"), ("a", "25 h"), ("", "1 s"), ("a" * 201, "1 s")]
)
def test_a_cooldown_out_of_bounds_is_refused(db: Connection, name: str, span: str) -> None:
    """With the bound and a hint."""
    with pytest.raises(psycopg.Error) as caught:
        db.execute("select peers.start_cooldown(%s, %s)", [name, span])
    assert caught.value.sqlstate == "PE009"
    assert caught.value.diag.message_hint


def test_prune_takes_cooldowns_whose_end_is_old_news(db: Connection) -> None:
    """A URL that is never called again does not stay for ever; one that still holds does."""
    db.execute("select peers.start_cooldown('old', '5 s')")
    advance(db, "2 days")
    db.execute("select peers.start_cooldown('held', '5 s')")
    db.execute("select peers.prune('30 days')")
    assert column(db, "select name from peers.cooldown") == ["held"]


def test_a_cooldown_can_be_lifted(db: Connection) -> None:
    """An operator who knows better says so; there is nothing to lift then."""
    db.execute("select peers.start_cooldown('a', '1 hour')")
    db.execute("select peers.start_cooldown('b', '1 hour')")
    assert column(db, "select peers.end_cooldown('a')") == [True]
    assert held(db, "a") == timedelta(0)
    assert held(db, "b") > timedelta(0)
    assert column(db, "select peers.end_cooldown('a')") == [False]


@pytest.mark.parametrize("back", ["60 s", "20 h"])
def test_a_clock_that_is_set_back_prolongs_no_cooldown(db: Connection, back: str) -> None:
    """It lasts for its span from when this is noticed, and a further one is counted from then."""
    for name in ("asked", "held again"):
        db.execute("select peers.start_cooldown(%s, '30 s')", [name])
    advance(db, f"-{back}")
    assert timedelta(seconds=25) < held(db, "asked") <= timedelta(seconds=30)
    db.execute("select peers.start_cooldown('held again', '5 s')")
    assert timedelta(seconds=20) < held(db, "held again") <= timedelta(seconds=30)
    advance(db, "31 s")
    assert held(db, "asked") == held(db, "held again") == timedelta(0)
