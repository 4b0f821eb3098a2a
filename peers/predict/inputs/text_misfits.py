"""Explain a column's type: a few values that make it a text, and leading zeros that get lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from peers.predict.inputs.text_blocks import Block
from peers.predict.inputs.text_options import TextOptions
from peers.predict.inputs.text_pandas import TEXT, PandasReader
from peers.predict.texts import shortened

_TRUTHS: Final = ["True", "TRUE", "true", "False", "FALSE", "false"]
_FEW: Final = 0.1
"""The share of values that count as few."""
_SHOWN: Final = 100
_TRIED: Final = 256 << 10
"""Bytes that are searched for numbers with leading zeros."""

_Alike = Literal["number", "boolean"]


@dataclass(slots=True)
class _Count:
    """The number of values of a sort, and the first value that is not."""

    alike: int = 0
    first: tuple[int, str] | None = None


class Misfits:
    """Counts the values of text columns that are not texts."""

    def __init__(self, names: Sequence[str], options: TextOptions) -> None:
        self._names = names
        marks = re.escape(options.decimal + (options.thousands or ""))
        self._number = rf"^\s*[+-]?([0-9{marks}]+([eE][+-]?[0-9]+)?|[iI]nf(inity)?)\s*$"
        self._values = dict.fromkeys(names, 0)
        self._counts: dict[str, dict[_Alike, _Count]] = {
            name: {"number": _Count(), "boolean": _Count()} for name in names
        }
        self._plain: set[str] = set()
        """The columns that contain only texts."""

    def count(self, column: int, values: pa.Array, block: Block) -> None:
        """Count the values of a block, as pandas read them."""
        name = self._names[column]
        present = len(values) - values.null_count
        if name in self._plain or not present:
            return
        self._values[name] += present
        counts = self._counts[name]
        if pa.types.is_boolean(values.type):
            self._all(counts, "boolean", "number", present, values, block)
        elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
            self._all(counts, "number", "boolean", present, values, block)
        else:
            truths = pc.is_in(values, pa.array(_TRUTHS, values.type))
            self._some(
                counts["number"], pc.match_substring_regex(values, self._number), values, block
            )
            self._some(counts["boolean"], pc.and_(truths, pc.is_valid(values)), values, block)
            if max(count.alike for count in counts.values()) < self._values[name] / 2:
                self._plain.add(name)

    def notes(self, texts: Sequence[str]) -> dict[str, str]:
        """Return a note for each column that is a text because of few values."""
        found = ((name, self._note(name)) for name in texts if name not in self._plain)
        return {name: note for name, note in found if note is not None}

    def _note(self, name: str) -> str | None:
        of, count = max(self._counts[name].items(), key=lambda item: item[1].alike)
        values = self._values[name]
        others = values - count.alike
        if not values or count.first is None or others > _FEW * values:
            return None
        row, value = count.first
        return (
            f"text, because {others:,} of {values:,} values {'is' if others == 1 else 'are'} "
            f"not of the type {of}; the first is row {row}: {shortened(value, _SHOWN)!r}; "
            f"--types {name}={of} makes these rows dead"
        )

    @staticmethod
    def _all(
        counts: dict[_Alike, _Count], alike: _Alike, other: _Alike, present: int,
        values: pa.Array, block: Block,
    ) -> None:  # fmt: skip
        counts[alike].alike += present
        if counts[other].first is None:
            place = pc.indices_nonzero(pc.is_valid(values))[0].as_py()
            counts[other].first = _shown(block, place, values)

    @staticmethod
    def _some(count: _Count, is_alike: pa.Array, values: pa.Array, block: Block) -> None:
        count.alike += pc.sum(is_alike).as_py() or 0
        if count.first is None:
            others = pc.indices_nonzero(pc.and_(pc.invert(is_alike), pc.is_valid(values)))
            if len(others):
                count.first = _shown(block, others[0].as_py(), values)


def lost_zeros(
    block: Block, values: dict[int, pa.Array], reader: PandasReader, names: Sequence[str]
) -> dict[str, str]:
    """Return a note for each column of integers with leading zeros, such as 0042."""
    whole = [column for column, found in values.items() if pa.types.is_integer(found.type)]
    if not whole or block.bad or reader.marks.quote in block.raw:
        return {}
    raw = block.raw[: block.raw.rfind(b"\n", 0, _TRIED) + 1] or block.raw
    texts = reader.read(raw, raw.count(b"\n") or 1, dict.fromkeys(whole, TEXT), whole)
    notes: dict[str, str] = {}
    for column in whole:
        row = first_zero(texts[column])
        if row is not None:
            notes[names[column]] = (
                f"integers, as pandas reads them: row {row} holds "
                f"{texts[column][row].as_py()}; "
                f"--types {names[column]}=text keeps its zeros"
            )
    return notes


def first_zero(texts: pa.Array) -> int | None:
    """Return the place of the first number with a leading zero, such as 0042."""
    places = pc.indices_nonzero(pc.match_substring_regex(texts, r"^\s*[+-]?0[0-9]"))
    return places[0].as_py() if len(places) else None


def _shown(block: Block, place: int, values: pa.Array) -> tuple[int, Any]:
    index = place if not block.bad else block.good[place]
    return block.first + index, str(values[place].as_py())
