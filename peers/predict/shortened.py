"""Long texts in one line."""

from __future__ import annotations

from typing import Final

_GAP: Final = " … "


def shortened(text: str, longest: int) -> str:
    """Return the text in one line; of a long one the head and the tail, which say most."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    head = (longest - len(_GAP)) // 2
    return line[:head] + _GAP + line[len(line) - (longest - len(_GAP) - head) :]
