"""A CSV or JSON Lines file: looked through, then kept as Parquet in the types that were decided."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputChanged, InputError
from peers.predict.inputs import text
from peers.predict.inputs.digests import digest_of
from peers.predict.inputs.files import SNAPSHOT, format_of, opened
from peers.predict.inputs.json_columns import AS_JSON, JSON
from peers.predict.inputs.reading import PROBLEM
from peers.predict.inputs.records import BOM, Span, TextFormat, records
from peers.predict.inputs.references import reference
from peers.predict.inputs.typed_values import ARROW
from peers.predict.outputs.durable import replaced
from peers.predict.spec import InputRef

_AT_ONCE: Final = 10_000
"""Rows that are converted together, and of a row group."""


class TextSurvey:
    """The file at `path`."""

    def __init__(self, path: Path, id_column: str | None) -> None:
        self._path = path
        self._format = cast(TextFormat, format_of(path))
        with opened(path) as stream:
            self._before = os.fstat(stream.fileno())
            self._names, self._start = _start(stream, path, self._format)
            self.rows = sum(1 for _ in self._spans(stream))
            if not self.rows:
                raise InputError(f"the input {path} has no rows", "There is nothing to predict.")
            # every key of JSON Lines is a column, also one that comes late
            most = text.SAMPLE if self._format == "csv" else None
            with opened(path) as other:
                sample = islice(self._spans(other), most)
                columns = text.sampled(stream, sample, self._format, self._names, id_column)
        self.schema = pa.schema(
            [
                pa.field(name, ARROW[type_], metadata=AS_JSON if type_ == JSON else None)
                for name, type_ in columns
            ]
        )
        self.notes: dict[str, str] = {}
        self._types = columns
        self.digest = digest_of(path)

    def settle(self, schema: pa.Schema, folder: Path) -> InputRef:
        """Convert the file into a snapshot in `folder`, unless it is there already."""
        target = folder / SNAPSHOT
        schema = schema.append(pa.field(PROBLEM, pa.string()))
        if not target.exists():
            self._convert(schema, target)
        return reference(self.digest, schema, target, self.rows)

    def _convert(self, schema: pa.Schema, target: Path) -> None:
        with opened(self._path) as stream, replaced(target) as temporary:
            now = os.fstat(stream.fileno())
            if (now.st_size, now.st_mtime_ns) != (self._before.st_size, self._before.st_mtime_ns):
                raise InputChanged(f"the input {self._path} changed while it was read")
            with pq.ParquetWriter(temporary, schema) as writer, opened(self._path) as other:
                spans = self._spans(other)
                while block := list(islice(spans, _AT_ONCE)):
                    writer.write_table(self._table(stream, block, schema).cast(schema))

    def _table(self, stream: BinaryIO, block: list[Span], schema: pa.Schema) -> pa.Table:
        begin, end = block[0].offset, block[-1].offset + block[-1].bytes
        stream.seek(begin)
        raw = stream.read(end - begin)
        spans = [Span(span.offset - begin, span.bytes) for span in block]
        names = [name for name, _ in self._types]
        wanted = [(name, type_) for name, type_ in self._types if name in schema.names]
        table, bad = text.table_of(raw, spans, self._format, names, wanted)
        problems: list[Any] = [bad.get(index) for index in range(len(block))]
        return table.append_column(PROBLEM, pa.array(problems, pa.string()))

    def _spans(self, stream: BinaryIO) -> Iterator[Span]:
        return records(stream, self._format, len(self._names) or None, self._start)


def _start(stream: BinaryIO, path: Path, format_: TextFormat) -> tuple[list[str], int]:
    """The header's names, if the format has one, and where the records begin."""
    if format_ == "csv":
        return text.header_of(stream, str(path))
    return [], len(BOM) if stream.read(len(BOM)) == BOM else 0
