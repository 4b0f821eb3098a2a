"""Measure and shorten the texts of a picture."""

from __future__ import annotations

import unicodedata
from typing import Final

from peers.pictures.picture import clean

NAME_MAX: Final = 40
"""Cells of a kind's name in a picture; the tooltip has all of it."""


def cells(text: str) -> int:
    """Return how many cells of a monospaced font a text takes."""
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def shortened(text: str, width: int = NAME_MAX) -> str:
    """Return a text of at most so many cells. It is shortened in the middle: its ends differ."""
    text = clean(text)
    if cells(text) <= width:
        return text
    head, tail = text, text
    half = (width - 1) // 2
    while cells(head) > width - 1 - half:
        head = head[:-1]
    while cells(tail) > half:
        tail = tail[1:]
    return f"{head}…{tail}"


def wrapped(text: str, width: int = NAME_MAX) -> list[str]:
    """Return a list of words with commas in lines of at most so many cells."""
    lines: list[str] = []
    for part in text.split(", "):
        if lines and cells(lines[-1]) + 2 + cells(part) <= width:
            lines[-1] += f", {part}"
        else:
            if lines:
                lines[-1] += ","
            lines.append(part)
    return lines
