"""Read a CSV: infer the types of its columns from the whole file, and convert its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from peers.predict.column_metadata import GUESSED, INDEX, READER, YES, ZEROS
from peers.predict.inputs import text_blocks
from peers.predict.inputs.records import Marks, OpenQuotes, Span, records
from peers.predict.inputs.text_blocks import Block, csv_blocks
from peers.predict.inputs.text_fits import are_plain, fits, is_text
from peers.predict.inputs.text_header import Header, read_header
from peers.predict.inputs.text_kinds import Kind, TypeSamples
from peers.predict.inputs.text_misfits import Misfits, first_zero, lost_zeros
from peers.predict.inputs.text_options import TextOptions
from peers.predict.inputs.text_pandas import TEXT, MismatchError, PandasReader
from peers.predict.inputs.text_window import Window
from peers.predict.inputs.typed_values import Converted, from_texts

_EXTREMES: Final = (b"9223372036854775808", b"18446744073709551615")
"""Numbers that pandas 2 treats as missing if it looks for missing values."""
_IS_PANDAS_2: Final = pd.__version__.startswith("2.")
_FIXED: Final = {Kind.FLOAT: np.float64, Kind.TEXT: TEXT, Kind.RAW_TEXT: TEXT}
"""The dtype for pandas, which would infer another one from a block alone."""


class CsvFile:
    """The columns of a CSV, inferred block by block; `rows` includes bad ones."""

    def __init__(
        self,
        path: Path,
        window: Window,
        separator: str,
        options: TextOptions,
        id_column: str | None,
        carry: Sequence[str] = (),
    ) -> None:
        marks = Marks(separator.encode(), options.quote.encode())
        self._header: Header = read_header(path, window, marks, options)
        self.names = self._header.names
        self._reader = PandasReader(separator, options, len(self.names))
        self._id = self.names.index(id_column) if id_column in self.names else None
        if self._id is not None:
            self._reader.keep_texts(self._id, [""])
        self._has_plain_ids = True
        self._carried = {column for column, name in enumerate(self.names) if name in carry}
        self._zeros: dict[int, str] = {}
        """The first value with a leading zero of carried columns."""
        self._witnesses = {
            column: TypeSamples(self._reader)
            for column in range(len(self.names))
            if column != self._id
        }
        self._misfits = Misfits(self.names, options)
        self._draft: dict[int, Kind] | None = None
        self._known: dict[int, Kind] | None = None
        """The kinds of the columns so far."""
        self._notes = dict(self._header.notes)
        self._foreign: Counter[int] = Counter()

    def blocks(self, window: Window) -> Iterator[Block]:
        """Cut the file behind its header into blocks."""
        window.seek(self._header.bytes)
        return csv_blocks(window, len(self.names), self._reader.marks, text_blocks.BLOCK)

    def learn(self, block: Block) -> pa.Table | None:
        """Add a block; return its values in the types of the first block.

        Return None if they do not fit those types, or might have others.
        """
        values, is_inferred = self._inferred(block)
        self._known = None
        to_isolate: list[int] = []
        for column, array in values.items():
            if column == self._id:
                self._has_plain_ids &= are_plain(array)
                continue
            decoded = _decoded(array, column, block)
            if is_text(array):
                self._witnesses[column].add_texts(_lazily(decoded))
            elif self._witnesses[column].add(decoded):
                to_isolate.append(column)
            self._misfits.count(column, array, block)
        for foreign in block.foreign.values():
            self._foreign.update(foreign)
        self._find_zeros(block, values)
        if to_isolate:
            texts = self._read(block, dict.fromkeys(to_isolate, TEXT), to_isolate)
            for column, array in texts.items():
                self._witnesses[column].add_texts(_lazily(_decoded(array, column, block)))
        if self._draft is None:
            self._draft = self._kinds()
            self._notes |= lost_zeros(block, values, self._reader, self.names)
        if not is_inferred or block.foreign:  # a row is bad only if a foreign column is read
            return None
        return self._drafted(block, values)

    def schema(self) -> pa.Schema:
        """Return all columns with the types that pandas infers from the whole file."""
        kinds = self._kinds()
        listed = []
        for column, name in enumerate(self.names):
            metadata = {GUESSED: YES}
            if column == 0 and self._header.has_index:
                metadata[INDEX] = YES
            if column in self._zeros:
                metadata[ZEROS] = self._zeros[column].encode()
            listed.append(pa.field(name, kinds[column].arrow, metadata=metadata))
        for column, kind in kinds.items():
            if kind is Kind.RAW_TEXT and column != self._id:
                self._reader.keep_texts(column, ())
        return pa.schema(listed, {READER: b"csv"})

    def is_as_drafted(self) -> bool:
        """Return whether the types of the first block are those of the whole file."""
        return self._draft == self._kinds()

    def notes(self) -> dict[str, str]:
        """Return a note for each column whose type or name is not obvious."""
        kinds = {self.names[column]: kind for column, kind in self._kinds().items()}
        kept = {
            name: note
            for name, note in self._notes.items()
            if name in self._header.notes or kinds[name] in {Kind.INT, Kind.INT_WITH_GAPS}
        }
        texts = [name for name, kind in kinds.items() if kind in {Kind.TEXT, Kind.RAW_TEXT}]
        foreign = {
            self.names[
                column
            ]: f"{count:,} value{'s' * (count != 1)} not in UTF-8: rows of a model "
            "that takes them are bad; name the file's encoding, such as --encoding latin-1"
            for column, count in self._foreign.items()
        }
        found = (kept, self._misfits.notes(texts), foreign)
        names = [name for name in self.names if any(name in notes for notes in found)]
        return {name: "; ".join(notes[name] for notes in found if name in notes) for name in names}

    def convert(self, block: Block, schema: pa.Schema) -> tuple[pa.Table, dict[int, str]]:
        """Return the block's values in these fields, and why some rows cannot be read."""
        columns = [self.names.index(name) for name in schema.names]
        kinds = self._kinds()
        requested = {
            column for column, field in zip(columns, schema, strict=True)
            if field.type != kinds[column].arrow
        }  # fmt: skip
        # a field that is not in the file's encoding is null, which pandas' integers cannot be
        requested |= {column for foreign in block.foreign.values() for column in foreign} & {
            column for column in columns if kinds[column] in {Kind.INT, Kind.UINT}
        }
        types = {
            column: TEXT if column in requested or column == self._id else _FIXED[kinds[column]]
            for column in columns
            if column in requested or column == self._id or kinds[column] in _FIXED
        }
        values = self._read(block, types, columns)
        for column, found in values.items():
            if column not in types and kinds[column] in {Kind.INT, Kind.UINT} and found.null_count:
                values[column] = self._reader.whole_numbers(block.raw, column)
        good = block.good
        bad = dict(block.bad)
        arrays: list[pa.Array] = []
        for column, field in zip(columns, schema, strict=True):
            found, failed = self._typed(values.get(column), field, column)
            bad |= {good[index]: why for index, why in failed.items() if good[index] not in bad}
            arrays.append(found)
        for index, foreign in block.foreign.items():
            name = next((self.names[column] for column in foreign if column in columns), None)
            if name is not None:
                bad[index] = f"the column {name!r} is not in the file's encoding"
        return spread(pa.table(arrays, schema=schema), block), bad

    def _find_zeros(self, block: Block, values: dict[int, pa.Array]) -> None:
        """Look for leading zeros in carried columns that pandas read as numbers."""
        columns = [
            column for column in sorted(self._carried - self._zeros.keys() - {self._id})
            if column in values and not is_text(values[column])
        ]  # fmt: skip
        if not columns:
            return
        for column, texts in self._read(block, dict.fromkeys(columns, TEXT), columns).items():
            place = first_zero(texts)
            if place is not None:
                self._zeros[column] = texts[place].as_py()

    def _typed(self, values: pa.Array | None, field: pa.Field, column: int) -> Converted:
        if values is None:
            return pa.nulls(0, field.type), {}
        if is_text(values) and (field.type != pa.string() or column == self._id):
            return from_texts(values, field, self._reader)
        return values.cast(field.type, safe=False), {}  # pandas rounds beyond 2^53 as well

    def _kinds(self) -> dict[int, Kind]:
        if self._known is not None:
            return self._known
        kinds = {column: found.kind() for column, found in self._witnesses.items()}
        if self._id is not None:
            kinds[self._id] = Kind.INT if self._has_plain_ids else Kind.TEXT
        self._known = kinds
        return kinds

    def _inferred(self, block: Block) -> tuple[dict[int, pa.Array], bool]:
        """Return the columns as pandas infers them from the block, or as texts where needed."""
        everything = dict.fromkeys(range(len(self.names)), TEXT)
        if not (_IS_PANDAS_2 and any(number in block.raw for number in _EXTREMES)):
            own = {} if self._id is None else {self._id: TEXT}
            try:
                return self._read(block, own), True
            except OverflowError:  # pandas 3 raises for numbers beyond 64 bits
                pass
        return self._read(block, everything), False

    def _read(
        self, block: Block, types: dict[int, Any], columns: Sequence[int] | None = None
    ) -> dict[int, pa.Array]:
        last = len(self.names) - 1
        is_shown = self._reader.shows_missing(last) and (columns is None or last in columns)
        if not block.is_counted and not is_shown:
            text_blocks.count_fields(block, len(self.names), self._reader.marks)
        try:
            values = self._reader.read(block.raw, block.rows - len(block.bad), types, columns)
        except (MismatchError, pd.errors.ParserError):
            values = {}
        if not block.is_counted and (not values or values[last].null_count):
            text_blocks.count_fields(block, len(self.names), self._reader.marks)
            return self._read(block, types, columns)
        block.is_counted = True
        if not values:
            self._part(block)
            values = self._reader.read(block.raw, block.rows - len(block.bad), types, columns)
        return values

    def _part(self, block: Block) -> None:
        """Find the records that pandas reads as more or fewer than one: they are bad."""
        raw, quotes = BytesIO(block.raw), self._reader.marks
        spans = list(records(raw, OpenQuotes(raw, len(self.names), quotes)))
        good = block.good
        kept: list[bytes] = []

        def go(part: Sequence[tuple[int, Span]]) -> None:
            if not part:
                return
            begin, end = part[0][1].offset, part[-1][1].offset + part[-1][1].bytes
            piece = block.raw[begin:end]
            try:
                self._reader.read(piece, len(part), dict.fromkeys(range(len(self.names)), TEXT))
                kept.append(piece)
            except (MismatchError, pd.errors.ParserError):
                if len(part) == 1:
                    block.bad[part[0][0]] = "pandas reads it as more or fewer than one record"
                else:
                    go(part[: len(part) // 2])
                    go(part[len(part) // 2 :])

        go(list(zip(good, spans, strict=True)))
        block.raw = b"".join(kept)

    def _drafted(self, block: Block, values: dict[int, pa.Array]) -> pa.Table | None:
        draft = self._draft or {}
        arrays: list[pa.Array] = []
        for column in range(len(self.names)):
            kind = draft[column]
            found = values.get(column, pa.nulls(0, kind.arrow))
            if not fits(found, kind, block, is_id=column == self._id):
                return None
            arrays.append(found.cast(kind.arrow, safe=False))
        return spread(pa.table(arrays, names=self.names), block)


def spread(table: pa.Table, block: Block) -> pa.Table:
    """Return the block's rows with nulls for its bad records; the table has only good ones."""
    if not block.bad:
        return table
    places: list[int | None] = [None] * block.rows
    for place, index in enumerate(block.good):
        places[index] = place
    return table.take(pa.array(places, pa.int64()))


def _decoded(values: pa.Array, column: int, block: Block) -> pa.Array:
    """Return the column without fields that are not in the file's encoding: these are no gaps."""
    foreign = {index for index, columns in block.foreign.items() if column in columns}
    if not foreign:
        return values
    return values.filter(pa.array([index not in foreign for index in block.good]))


def _lazily(values: pa.Array) -> Iterator[str | None]:
    return (value.as_py() for value in values)
