"""A random graph, and kills of peers and backends. The long run is `python -m tests.e2e.chaos`."""

from __future__ import annotations

import random

import pytest

from tests.e2e.chaos import unleash
from tests.e2e.harness import Stage


@pytest.mark.parametrize("seed", [20261123])
def test_a_random_graph_survives_a_kill_every_second(stage: Stage, seed: int) -> None:
    """500 tasks in a random graph on three peers. Every second one is killed with SIGKILL and
    replaced, of every second one no other peer can see the end, and then the backend of a
    peer's connection is terminated: each task comes to its end once, no child starts early,
    nothing is lost.
    """
    outcome = unleash(stage, random.Random(seed), tasks=500, every=1.0)
    assert outcome.kills
    assert outcome.backend_kills
    assert outcome.unseen
    assert outcome.clean, outcome
