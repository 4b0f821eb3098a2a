"""Say what was decided of the columns before anything is submitted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from peers.predict.inputs.column_types import Column, Decision

_FEW: Final = 12
"""Columns up to which each has a line of its own."""


def announce(decision: Decision) -> None:
    """Print the decisions and the warnings on stderr."""
    sys.stderr.writelines(f"{line}\n" for line in lines(decision))
    sys.stderr.flush()


def lines(decision: Decision) -> Iterator[str]:
    """Yield one line for each column, or for neighbours that are alike where there are many."""
    groups = [[one] for one in decision.columns]
    if len(groups) > _FEW:
        alike = groupby(decision.columns, key=lambda one: (one.type, one.source, one.note))
        groups = [list(group) for _, group in alike]
    width = max((len(_names(group)) for group in groups), default=0)
    for group in groups:
        first = group[0]
        origin = f"({first.source}{'; ' + first.note if first.note else ''})"
        yield f"  {_names(group):<{width}}  {first.type:<9}  {origin}"
    for warning in decision.warnings:
        yield f"warning: {warning}"


def _names(group: Sequence[Column]) -> str:
    if len(group) == 1:
        return group[0].name
    return f"{group[0].name} … {group[-1].name} ({len(group)} columns)"
