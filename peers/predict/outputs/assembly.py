"""Assemble the output from the parts and the isolated rows, with two parts in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.atomic_files import atomic_write, remove_leftovers
from peers.predict.errors import OutputConflict
from peers.predict.outputs.encoding import writer_options
from peers.predict.outputs.fitting import shaped
from peers.predict.outputs.isolated_values import read_isolated_values
from peers.predict.outputs.output_type import OutputType, current_type, single_column
from peers.predict.outputs.ownership import RUN_KEY, record_output_digest, refuse_foreign_output
from peers.predict.outputs.parts import (
    ROW,
    about_part,
    kept_columns,
    kept_schema,
    read_part,
)
from peers.predict.outputs.text_parts import copy_text, header, is_text, lines, text_path
from peers.predict.predictions import PREDICTION
from peers.predict.spec import Manifest

_ROW_GROUP: Final = 131_072
"""Rows: many small row groups, such as one for each part, slow readers down."""
_ROW_GROUP_BYTES: Final = 64 << 20


class IsolatedPredictions(NamedTuple):
    """The isolated rows of a chunk that were predicted.

    `rows`: their numbers. `values`: the file with their values. `predictions`: a table with one row
    for each.
    """

    rows: list[int]
    values: str
    predictions: list[pa.Table]


@dataclass(frozen=True, slots=True)
class Written:
    """The output as it was written."""

    rows: int
    bytes: int
    path: Path


def assemble(
    manifest: Manifest,
    isolated: Mapping[int, IsolatedPredictions],
    *,
    dead: int = 0,
    overwrite: bool = False,
) -> Written:
    """Write the output in the order of the rows, atomically and reproducibly.

    `isolated`: by chunk. `dead`: how many rows have no prediction. Raises OutputConflict if the
    output exists and is not this run's, a part is missing, or a row is duplicated or missing.
    Raises OutputError if the disk is full.
    """
    output = Path(manifest.output)
    if not overwrite:
        refuse_foreign_output(manifest)
    final = current_type(manifest.folder).type or single_column()
    whole = _Whole(manifest, isolated, final, _RowCheck(manifest.input.rows - dead))
    remove_leftovers(output)
    with atomic_write(output) as temporary:
        try:
            (_write_text if is_text(output) else _write_parquet)(whole, temporary)
        except pa.ArrowException as error:
            raise OutputConflict(f"{output} cannot hold the predictions: {error}") from error
        whole.counted.require_all()
        size = temporary.stat().st_size
        record_output_digest(manifest, temporary)
    return Written(whole.counted.rows, size, output)


class _RowCheck:
    """Checks that rows come once, in order, and in the expected number."""

    def __init__(self, wanted: int) -> None:
        self.rows, self._last, self._wanted = 0, -1, wanted

    def take(self, numbers: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
        if not len(numbers):
            return
        wrong = np.flatnonzero(np.diff(numbers, prepend=self._last) <= 0)
        if len(wrong):
            raise OutputConflict(
                f"row {numbers[wrong[0]]} is duplicated or out of order: a part is not this run's"
            )
        self.rows, self._last = self.rows + len(numbers), int(numbers[-1])

    def require_all(self) -> None:
        if self.rows != self._wanted:
            raise OutputConflict(
                f"the parts have {self.rows} rows, but {self._wanted} were predicted: a part is "
                "not this run's",
                "Give the run another --run NAME to start it again.",
            )


@dataclass(frozen=True)
class _Whole:
    manifest: Manifest
    isolated: Mapping[int, IsolatedPredictions]
    final: OutputType
    counted: _RowCheck

    @property
    def schema(self) -> pa.Schema:
        fields = [pa.field(name, kind) for name, kind in self.final.columns.items()]
        return pa.schema([*kept_schema(self.manifest), *fields])

    def table(self, number: int) -> pa.Table:
        """Return a chunk's rows, with the isolated rows in their places."""
        kept = kept_schema(self.manifest)
        part = read_part(self.manifest.folder, number).replace_schema_metadata(None)
        try:
            before = part.select(kept.names).cast(kept)
        except (KeyError, pa.ArrowException) as error:
            raise OutputConflict(
                f"the part of chunk {number} is not this run's: {error}"
            ) from error
        tables = [self._row_table(before, shaped(part.drop_columns(kept.names), self.final))]
        if number in self.isolated:
            tables.append(self._isolated(self.isolated[number]))
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        numbers = table.column(ROW).to_numpy()
        if len(tables) > 1:
            order = np.argsort(numbers, kind="stable")
            table, numbers = table.take(pa.array(order)), numbers[order]
        self.counted.take(numbers)
        return table

    def _isolated(self, isolated: IsolatedPredictions) -> pa.Table:
        values = read_isolated_values(self.manifest.folder, isolated.values, isolated.rows)
        found = pa.concat_tables([shaped(one, self.final) for one in isolated.predictions])
        return self._row_table(kept_columns(self.manifest, isolated.rows, values.rows), found)

    def _row_table(self, kept: pa.Table, found: pa.Table) -> pa.Table:
        return pa.Table.from_arrays([*kept.columns, *found.columns], schema=self.schema)


def _write_parquet(whole: _Whole, path: Path) -> None:
    schema = whole.schema.with_metadata({RUN_KEY: whole.manifest.run.encode()})
    with pq.ParquetWriter(path, schema, **writer_options(schema)) as writer:
        for table in _grouped(_read_ahead(whole)):
            writer.write_table(table.cast(schema), row_group_size=_ROW_GROUP)


def _read_ahead(whole: _Whole) -> Iterator[pa.Table]:
    """Yield the chunks' rows, and read the next part while one is written.

    Both happen in C, and other workers are idle at this time.
    """
    with ThreadPoolExecutor(1, "read-ahead") as reader:
        following: Future[pa.Table] | None = None
        for number in range(whole.manifest.chunks):
            ready, following = following, reader.submit(whole.table, number)
            if ready is not None:
                yield ready.result()
        if following is not None:
            yield following.result()


def _grouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        rows = sum(one.num_rows for one in waiting)
        if rows >= _ROW_GROUP or sum(one.nbytes for one in waiting) >= _ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting).unify_dictionaries()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _write_text(whole: _Whole, path: Path) -> None:
    output = Path(whole.manifest.output)
    if whole.manifest.model.protocol == "openai" and output.suffix.lower() == ".jsonl":
        _write_batch_lines(whole, path)
        return
    with path.open("wb") as stream:
        stream.write(header(output, whole.schema.names))
        for number in range(whole.manifest.chunks):
            if not _copied(whole, number, stream):
                for content in lines(output, whole.table(number)):
                    stream.write(content)


def _write_batch_lines(whole: _Whole, path: Path) -> None:
    """Write the predictions unchanged: each is a line of OpenAI's batch output file."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(whole.manifest.chunks):
            found = whole.table(number).column(PREDICTION).to_pylist()
            stream.writelines(f"{line}\n" for line in found)


def _copied(whole: _Whole, number: int, stream: BinaryIO) -> bool:
    """Copy the chunk's own lines if they are final; return whether they were."""
    manifest = whole.manifest
    about = about_part(manifest.folder, number)
    if number in whole.isolated or about.text is None or not about.schema.equals(whole.schema):
        return False
    path = text_path(manifest.folder, number, Path(manifest.output))
    if not copy_text(path, about.text, stream):
        return False
    numbers = read_part(manifest.folder, number, [ROW]).column(ROW).to_numpy()
    whole.counted.take(numbers)
    return True
