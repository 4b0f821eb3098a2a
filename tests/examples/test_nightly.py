"""The pipeline of examples/nightly/."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.support.cli import PATIENCE, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.examples.conftest import Example


def test_a_day_is_reported_once(example: Example) -> None:
    """Submitting a day twice runs its graph once; another day is another graph."""
    with example.peer("--app", "nightly.tasks"):
        first = example.python("nightly.submit", "2026-11-26", "nightly/orders.csv")
        again = example.python("nightly.submit", "2026-11-26", "nightly/orders.csv")
        other = example.python("nightly.submit", "2026-11-27", "nightly/orders.csv")
    assert first.splitlines()[0] == "2026-11-26: 51.25"
    assert first.splitlines()[1].endswith("5 of 5 tasks completed")
    assert again == first
    assert other.splitlines()[0] == "2026-11-27: 99.00"
    assert example.db.execute("select count(*) as n from peers.task").fetchone() == {"n": 10}


def test_a_corrected_file_lets_the_pipeline_go_on(example: Example, tmp_path: Path) -> None:
    """Broken orders hold the load; after a correction and a retry the report has the right sum."""
    orders = tmp_path / "orders.csv"
    orders.write_text("day,region,amount\n2026-11-26,north,broken\n")
    with example.peer("--app", "nightly.tasks"):
        dead = "select count(*) as n from peers.dead_letter where held_children = 1"
        words = (sys.executable, "-m", "nightly.submit", "2026-11-26", str(orders))
        with example.started(*words) as submitting:
            until(lambda: example.db.execute(dead).fetchone() == {"n": 1}, "the extract is dead")
            orders.write_text("day,region,amount\n2026-11-26,north,5.00\n")
            example.run("peers", "dead", "retry", "--kind", "nightly.extract")
            assert submitting.wait(PATIENCE) == 0
    [row] = example.db.execute("select result from peers.task where kind = 'nightly.report'")
    assert row["result"] == "2026-11-26: 5.00"
