"""`python -m peers.predict.demo`, small: its figures are what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.predict.runs import SOURCES


def test_a_prediction_from_nothing_is_whole_in_the_end() -> None:
    """Poisoned, killed, resumed and verified; its last line are the figures, and they are right."""
    rows = 4000
    done = subprocess.run(
        [sys.executable, "-m", "peers.predict.demo", "--rows", str(rows), "--trees", "10",
         "--batch-size", "32"],
        cwd=SOURCES, env=os.environ, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["rows"], figures["predicted"], figures["dead"]) == (rows, rows - 3, 3)
    assert (figures["missing"], figures["duplicated"], figures["mismatched"]) == (0, 0, 0)
    assert figures["rows_per_second"] > 0
    assert "killed one peer and the command" in done.stderr
