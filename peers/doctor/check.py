"""Declare a check as data: its name, the question that it asks, and the function that looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from peers.database.deadlines import BoundedConnection
    from peers.doctor.findings import Finding
    from peers.settings import Settings


class CheckContext(NamedTuple):
    """What a check looks at."""

    settings: Settings
    connection: BoundedConnection


class Check(NamedTuple):
    """One check that a client makes."""

    name: str
    question: str
    find: Callable[[CheckContext], Iterable[Finding]]
    """Return the findings. Errors of the database mean that the check could not be made."""
    finds: tuple[str, ...]
    """The names of its findings."""
