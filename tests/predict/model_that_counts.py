"""A module that notes each process which imports it."""

import os
from pathlib import Path

with Path(os.environ["PREDICT_TEST_GATE"]).open("a") as _notes:
    _notes.write(f"{os.getpid()}\n")


def predict(rows: list[object]) -> list[float]:
    """Return a number for each row."""
    return [1.0 for _ in rows]
