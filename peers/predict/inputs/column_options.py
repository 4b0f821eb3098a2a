"""The user's options for columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from peers.predict.inputs.column_kinds import TypeName

_SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class ColumnOptions:
    """The user's options for columns. `ids`: columns of ids, which are not features.

    `carry`: columns that are copied into the output. They are not features if the model takes
    fewer columns.
    """

    model: str
    types: Mapping[str, TypeName] = field(default_factory=dict)
    ids: Sequence[str] = ()
    carry: Sequence[str] = ()
    allow_nan: bool = False


def listed(names: Sequence[str]) -> str:
    """Return the names for a message; only the first ones if there are many."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
