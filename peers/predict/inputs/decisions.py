"""Print the types of the columns before anything is submitted."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from peers.predict.inputs.column_types import Column, Decision

_FEW: Final = 12
"""Up to this number of columns, each has a line."""


def announce(decision: Decision) -> None:
    """Print the types and the warnings on stderr."""
    sys.stderr.writelines(f"{line}\n" for line in lines(decision))
    sys.stderr.flush()


def lines(decision: Decision) -> Iterator[str]:
    """Yield a line for each column; if there are many, neighbours of the same type share a line."""
    groups = [[one] for one in decision.columns]
    if len(groups) > _FEW:
        same = groupby(decision.columns, key=lambda one: (one.type, one.source, one.note))
        groups = [list(group) for _, group in same]
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
