"""Every scenario holds against the SQL as shipped."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest

from tests.sql import scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.world import World

SCENARIOS = {
    name: function
    for name, function in inspect.getmembers(scenarios, inspect.isfunction)
    if list(inspect.signature(function).parameters) == ["world"] and not name.startswith("assert")
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_must_hold_holds(world: World, name: str) -> None:
    """See the scenario's own docstring."""
    scenario: Callable[[World], None] = SCENARIOS[name]
    scenario(world)
