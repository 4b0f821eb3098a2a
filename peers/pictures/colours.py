"""The colours of states, for light and for dark backgrounds."""

from __future__ import annotations

from typing import Final, NamedTuple


class Colour(NamedTuple):
    """The colours of a box with dark text, and of a box with light text."""

    fill: str
    stroke: str
    dark_fill: str
    dark_stroke: str
    ansi: str
    """The number of the colour in a terminal."""


COLOURS: Final = {
    "dead": Colour("#fecaca", "#b91c1c", "#7f1d1d", "#fca5a5", "31;1"),
    "held": Colour("#fed7aa", "#c2410c", "#7c2d12", "#fdba74", "33"),
    "running": Colour("#bfdbfe", "#1d4ed8", "#1e3a8a", "#93c5fd", "34;1"),
    "ready": Colour("#cffafe", "#0e7490", "#164e63", "#67e8f9", "36"),
    "scheduled": Colour("#ede9fe", "#6d28d9", "#4c1d95", "#c4b5fd", "35"),
    "blocked": Colour("#e5e7eb", "#4b5563", "#374151", "#d1d5db", "0"),
    "cancelled": Colour("#f5f5f4", "#78716c", "#292524", "#a8a29e", "2"),
    "completed": Colour("#bbf7d0", "#15803d", "#14532d", "#86efac", "32"),
}
