"""Callables that return more than one column, or not always the same."""

from __future__ import annotations

from typing import Any

import numpy as np


def labelled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Two columns; a batch with an x of -1 raises."""
    x = np.array([row["x"] for row in rows])
    if (x == -1).any():
        raise ValueError("x must not be -1")
    return {"label": np.where(x % 2 == 0, "even", "odd"), "score": x / 2}


def moody(rows: list[dict[str, Any]]) -> list[Any]:
    """Null at first, whole numbers, from 1000 on halves; a boolean and a text among them."""
    return [_moody(int(row["x"])) for row in rows]


def _moody(x: int) -> Any:
    if x in {17, 2500}:
        return True if x == 17 else "n/a"
    return None if x < 10 else x / 2 if x >= 1000 else x
