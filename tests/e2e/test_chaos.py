"""A random graph, and a peer killed every second. The long run is `python -m tests.e2e.chaos`."""

from __future__ import annotations

import random

import pytest

from tests.e2e.chaos import unleash
from tests.e2e.harness import Stage


@pytest.mark.parametrize("seed", [20261123])
def test_a_random_graph_survives_a_kill_every_second(stage: Stage, seed: int) -> None:
    """500 tasks in a random graph on three peers, one of which is killed with SIGKILL every second
    and replaced: each task comes to its end once, no child starts early, nothing is lost.
    """
    outcome = unleash(stage, random.Random(seed), tasks=500, every=1.0)
    assert outcome.kills
    assert outcome.clean, outcome
