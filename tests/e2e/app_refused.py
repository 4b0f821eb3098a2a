"""Handlers whose outcomes some databases refuse."""

from __future__ import annotations

from datetime import timedelta

import peers
from peers import task

_AT_ONCE = timedelta(0)


class OddError(Exception):
    """Its name has a character that no text in Postgres may have."""


OddError.__qualname__ = "Odd\0Error"


@task("odd", max_attempts=1, backoff=_AT_ONCE)
def odd(what: str) -> object:
    """Ends in a way that cannot be written down as it is."""
    match what:
        case "infinity":
            raise peers.Retry(in_=float("inf"))
        case "nan":
            retry = peers.Retry(in_=1)
            retry.in_ = float("nan")
            raise retry
        case "euro":
            raise ValueError("5 €")
        case "name":
            raise OddError("odd")
        case _:
            return "5 €"


@task("even", max_attempts=2, backoff=_AT_ONCE)
def even(n: int) -> int:
    """Completes."""
    return n


@task("fails", max_attempts=1)
def fails() -> None:
    """Does what it says."""
    raise ValueError("as always")
