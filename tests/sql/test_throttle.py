"""Hold-offs: what one peer was told, all peers heed, for as long as the longest of them."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from tests.support.server import Connection
from tests.support.world import advance, column


def held(db: Connection, name: str) -> timedelta:
    """For how long it is still to be left alone."""
    [left] = column(db, "select peers.held_off(%s)", name)
    assert isinstance(left, timedelta)
    return left


def test_a_hold_off_lasts_until_the_latest_end_and_no_longer(db: Connection) -> None:
    """A shorter one does not end a longer one before its time; others' names are not affected."""
    assert held(db, "a") == timedelta(0)
    db.execute("select peers.hold_off('a', '60 s', 'slow down')")
    db.execute("select peers.hold_off('a', '5 s')")
    assert timedelta(seconds=55) < held(db, "a") <= timedelta(seconds=60)
    assert held(db, "b") == timedelta(0)
    advance(db, "61 s")
    assert held(db, "a") == timedelta(0)


@pytest.mark.parametrize(
    ("name", "span"), [("a", "0 s"), ("a", "-1 s"), ("a", "25 h"), ("", "1 s"), ("a" * 201, "1 s")]
)
def test_a_hold_off_out_of_bounds_is_refused(db: Connection, name: str, span: str) -> None:
    """With the bound and a hint."""
    with pytest.raises(psycopg.Error) as caught:
        db.execute("select peers.hold_off(%s, %s)", [name, span])
    assert caught.value.sqlstate == "PE009"
    assert caught.value.diag.message_hint
