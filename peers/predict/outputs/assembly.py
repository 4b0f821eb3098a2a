"""The output, out of the parts and of the rows that stood alone; one part in memory at a time."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import OutputConflict
from peers.predict.outputs.durable import discard_unfinished, replaced
from peers.predict.outputs.ownership import RUN_KEY, leave_receipt, refuse_foreign
from peers.predict.outputs.parts import ID, PREDICTION, ROW, read_part, schema_of
from peers.predict.outputs.values import read_values
from peers.predict.spec import Manifest


class Extra(NamedTuple):
    """Rows of a chunk that stood alone: their numbers, the file of their values, a prediction each.

    A prediction is an array of one.
    """

    rows: list[int]
    values: str
    predictions: list[pa.Array]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    rows: int
    bytes: int
    path: Path


def assemble(
    manifest: Manifest, extra: Mapping[int, Extra], *, dead: int = 0, overwrite: bool = False
) -> Written:
    """Writes the output in the order of the rows, whole or not at all; again gives the same.

    `extra`: by chunk; `dead`: how many rows have no prediction. Raises OutputConflict when the
    output exists and is not this run's, a part is missing, a row comes twice or is unaccounted for;
    OutputError when the disk is full.
    """
    output = Path(manifest.output)
    if not overwrite:
        refuse_foreign(manifest)
    schema = _schema(manifest, extra)
    tables = _checked(_merged(manifest, extra, schema), manifest.input.rows - dead)
    discard_unfinished(output)
    with replaced(output) as temporary:
        rows = _written(manifest, temporary, schema, tables)
        size = temporary.stat().st_size
        leave_receipt(manifest, temporary)
    return Written(rows, size, output)


def _written(
    manifest: Manifest, temporary: Path, schema: pa.Schema, tables: Iterator[pa.Table]
) -> int:
    write = _WRITERS[Path(manifest.output).suffix.lower()]
    if manifest.model.protocol == "openai" and write is _write_jsonl:
        write = _write_lines
    try:
        return write(temporary, schema, tables)
    except pa.ArrowException as error:
        raise OutputConflict(f"{manifest.output} cannot hold the predictions: {error}") from error


def _schema(manifest: Manifest, extra: Mapping[int, Extra]) -> pa.Schema:
    """One that all parts and all rows that stood alone fit; it names the run."""
    schemas = {schema_of(manifest.folder, number) for number in range(manifest.chunks)}
    kinds = {one.type for each in extra.values() for one in each.predictions}
    schemas |= {pa.schema([(PREDICTION, kind)]) for kind in kinds}
    ordered = sorted(schemas, key=lambda schema: (len(schema.names), str(schema)), reverse=True)
    try:
        unified = pa.unify_schemas(ordered, promote_options="permissive")
    except pa.ArrowException as error:
        raise OutputConflict(f"the predictions have no type in common: {error}") from error
    return unified.with_metadata({RUN_KEY: manifest.run.encode()})


def _merged(
    manifest: Manifest, extra: Mapping[int, Extra], schema: pa.Schema
) -> Iterator[pa.Table]:
    """The parts in order, each with those of its rows that stood alone."""
    for number in range(manifest.chunks):
        part = _cast(read_part(manifest.folder, number), number, schema)
        if number in extra:
            alone = _table(manifest, extra[number], schema)
            part = pa.concat_tables([part, alone]).sort_by(ROW)
        yield part


def _cast(part: pa.Table, number: int, schema: pa.Schema) -> pa.Table:
    try:
        return part.cast(schema)
    except pa.ArrowException as error:
        kind = schema.field(PREDICTION).type
        raise OutputConflict(
            f"the predictions of chunk {number} do not fit the others', which are {kind}: {error}"
        ) from error


def _table(manifest: Manifest, extra: Extra, schema: pa.Schema) -> pa.Table:
    kind = schema.field(PREDICTION).type
    columns = {
        ROW: pa.array(extra.rows, pa.int64()),
        PREDICTION: _cast_alone(extra, kind),
    }
    if ID in schema.names:
        values = read_values(manifest.folder, extra.values, extra.rows)
        columns[ID] = values.rows.column(manifest.id_column)
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def _cast_alone(extra: Extra, kind: pa.DataType) -> pa.Array:
    found = []
    for row, one in zip(extra.rows, extra.predictions, strict=True):
        try:
            found.append(one.cast(kind))
        except pa.ArrowException as error:
            raise OutputConflict(
                f"the prediction of row {row} does not fit the others', which are {kind}: {error}"
            ) from error
    return pa.concat_arrays(found)


def _checked(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Every row once, in order, and so many of them."""
    last, found = -1, 0
    for table in tables:
        found += table.num_rows
        numbers = np.concatenate([[last], table.column(ROW).to_numpy()])
        wrong = np.flatnonzero(np.diff(numbers) <= 0)
        if len(wrong):
            raise OutputConflict(
                f"row {numbers[wrong[0] + 1]} comes twice, or out of order: a part is not the run's"
            )
        last = numbers[-1]
        yield table
    if found != rows:
        raise OutputConflict(
            f"the parts have {found} rows where {rows} have a prediction: one is not the run's",
            "Give the run another --run NAME to do it afresh.",
        )


def _write_parquet(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _write_csv(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    rows = 0
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(schema.names)
        for table in tables:
            columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
            writer.writerows(zip(*columns, strict=True))
            rows += table.num_rows
    return rows


def _write_jsonl(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    del schema
    rows = 0
    with path.open("w", encoding="utf-8") as stream:
        for table in tables:
            for record in table.to_pylist():
                stream.write(_json(record) + "\n")
            rows += table.num_rows
    return rows


def _write_lines(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    """The predictions as they are: each is a line of a batch's output file."""
    del schema
    rows = 0
    with path.open("w", encoding="utf-8") as stream:
        for table in tables:
            stream.writelines(f"{line}\n" for line in table.column(PREDICTION).to_pylist())
            rows += table.num_rows
    return rows


def _cell(value: Any) -> Any:
    return _json(value) if isinstance(value, dict | list) else value


def _json(value: Any) -> str:
    """JSON that every reader takes: it has no NaN and no infinity, they are null."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_WRITERS = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
