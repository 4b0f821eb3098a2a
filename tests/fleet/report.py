"""The table of a run: what each scenario expected, and what came of it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Final

_WIDTHS: Final = (30, 44, 56, 8, 3)
_HEAD: Final = ("scenario", "expected", "measured", "pause", "met")


@dataclass
class Finding:
    """One row."""

    scenario: str
    expected: str
    notes: list[str] = field(default_factory=list)
    pause: float | None = None
    """The longest time without a completed task, in seconds."""
    met: bool = True

    def note(self, text: str, met: bool = True) -> None:
        """Add a figure; one that does not meet the expectation fails the row."""
        self.notes.append(text if met else f"NOT MET: {text}")
        self.met = self.met and met

    def at_most(self, what: str, seconds: float, bound: float) -> None:
        """Add a time, which may be at most the bound."""
        bounded = seconds <= bound
        self.note(
            f"{what} {seconds:.1f} s" + ("" if bounded else f" (at most {bound:g} s)"), bounded
        )

    def same(self, what: str, found: object, expected: object) -> None:
        """Add a figure that has to be the expected one."""
        agrees = found == expected
        self.note(f"{what}: {found}" + ("" if agrees else f" (expected {expected})"), agrees)

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the row as text."""
        pause = "" if self.pause is None else f"{self.pause:.1f} s"
        return (
            self.scenario,
            self.expected,
            "; ".join(self.notes),
            pause,
            "yes" if self.met else "NO",
        )


def table(findings: list[Finding]) -> str:
    """Return the table for a terminal."""
    lines = [_line(_HEAD), "-" * (sum(_WIDTHS) + 2 * len(_WIDTHS))]
    for finding in findings:
        wrapped = [textwrap.wrap(cell, width) or [""]
                   for cell, width in zip(finding.cells, _WIDTHS, strict=True)]  # fmt: skip
        height = max(map(len, wrapped))
        padded = [cell + [""] * (height - len(cell)) for cell in wrapped]
        lines += map(_line, zip(*padded, strict=True))
    return "\n".join(lines)


def _line(cells: tuple[str, ...]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True))
    return "  ".join(padded).rstrip()


def markdown(findings: list[Finding]) -> str:
    """Return the table for docs/operations.md."""
    rows = [_HEAD[:4], ("---",) * 4, *(finding.cells[:4] for finding in findings)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
