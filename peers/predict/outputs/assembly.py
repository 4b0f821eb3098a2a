"""The output, out of the parts and of the rows that stood alone; one part in memory at a time."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import OutputError
from peers.predict.outputs.durable import replaced
from peers.predict.outputs.ownership import RUN_KEY, belongs_to, digest_of, leave_receipt
from peers.predict.outputs.parts import PREDICTION, ROW, array_of, read_part, schema_of
from peers.predict.spec import Manifest


class Extra(NamedTuple):
    """A row that stood alone, with the prediction that its task returned."""

    row: int
    id: Any
    prediction: Any


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    rows: int
    bytes: int
    path: Path


def assemble(
    manifest: Manifest,
    numbers: Sequence[int],
    extra: Sequence[Extra],
    *,
    dead: int = 0,
    overwrite: bool = False,
) -> Written:
    """Writes the output in the order of the rows, whole or not at all; again gives the same.

    `numbers`: the chunks; `extra`: rows in order; `dead`: how many rows have no prediction. Raises
    OutputError when the output exists and is not this run's, a part is missing, a row comes twice
    or is unaccounted for, or the disk is full.
    """
    output = Path(manifest.output)
    if output.exists() and not overwrite and belongs_to(output) != manifest.run:
        raise _foreign(output)
    schema = _schema(manifest, numbers, extra)
    tables = _checked(_merged(manifest, numbers, extra, schema), manifest.input.rows - dead)
    with replaced(output) as temporary:
        rows = _WRITERS[output.suffix.lower()](temporary, schema, tables)
        size = temporary.stat().st_size
        if output.suffix.lower() != ".parquet":
            leave_receipt(manifest.folder, digest_of(temporary))
    return Written(rows, size, output)


def _foreign(output: Path) -> OutputError:
    return OutputError(
        f"{output} exists with other contents than this run's",
        "Move it away, name another --output, or say --overwrite.",
    )


def _schema(manifest: Manifest, numbers: Sequence[int], extra: Sequence[Extra]) -> pa.Schema:
    """One that all parts fit; it names the run."""
    schemas = {schema_of(manifest.folder, number) for number in numbers}
    if extra and not _fit([one.prediction for one in extra], schemas):
        schemas.add(pa.schema([(PREDICTION, array_of([one.prediction for one in extra]).type)]))
    ordered = sorted(schemas, key=lambda schema: (len(schema.names), str(schema)), reverse=True)
    try:
        unified = pa.unify_schemas(ordered, promote_options="permissive")
    except pa.ArrowException as error:
        raise OutputError(f"predictions of the chunks have no type in common: {error}") from error
    return unified.with_metadata({RUN_KEY: manifest.run.encode()})


def _fit(predictions: list[Any], schemas: set[pa.Schema]) -> bool:
    """Whether they can take the parts' own type: JSON knows no float32, and need not widen it."""
    kinds = {schema.field(PREDICTION).type for schema in schemas} - {pa.null()}
    if len(kinds) != 1:
        return False
    kind = kinds.pop()
    if "struct" in str(kind):
        return False  # would drop the keys that it doesn't know
    try:
        pa.array(predictions, kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _merged(
    manifest: Manifest, numbers: Sequence[int], extra: Sequence[Extra], schema: pa.Schema
) -> Iterator[pa.Table]:
    """The parts in order, each with the rows that belong into its range."""
    waiting = list(reversed(extra))
    ahead = None
    for number in numbers:
        part = _cast(read_part(manifest.folder, number), number, schema)
        # a row that stood alone goes before the first later row of any part
        if ahead is not None:
            yield _with(ahead, _pop_before(_limit(ahead, part), waiting), schema)
        ahead = part
    if ahead is not None:
        yield _with(ahead, list(reversed(waiting)), schema)


def _cast(part: pa.Table, number: int, schema: pa.Schema) -> pa.Table:
    try:
        return part.cast(schema)
    except pa.ArrowException as error:
        kind = schema.field(PREDICTION).type
        raise OutputError(
            f"the predictions of chunk {number} do not fit the others', which are {kind}: {error}"
        ) from error


def _limit(ahead: pa.Table, following: pa.Table) -> int:
    """Rows below this one belong to the part ahead, as far as is known from these two."""
    if following.num_rows:
        return int(following.column(ROW)[0].as_py())
    return int(ahead.column(ROW)[-1].as_py()) if ahead.num_rows else 0


def _pop_before(row: int, waiting: list[Extra]) -> list[Extra]:
    mine: list[Extra] = []
    while waiting and waiting[-1].row < row:
        mine.append(waiting.pop())
    return mine


def _with(part: pa.Table, extra: Sequence[Extra], schema: pa.Schema) -> pa.Table:
    if not extra:
        return part
    values: dict[str, list[Any]] = {
        ROW: [one.row for one in extra],
        "id": [one.id for one in extra],
        PREDICTION: [one.prediction for one in extra],
    }
    arrays = [_array(values[field.name], field.type) for field in schema]
    return pa.concat_tables([part, pa.table(arrays, schema=schema)]).sort_by(ROW)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """What went through JSON, in the type that it had before; dates are texts there."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = [None if value is None else str(value) for value in values]
        try:
            return pa.array(texts, pa.string()).cast(kind)
        except pa.ArrowException as error:
            raise OutputError(f"a row that stood alone does not fit its column: {error}") from error


def _checked(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Every row once, in order, and so many of them."""
    last, found = -1, 0
    for table in tables:
        found += table.num_rows
        for row in table.column(ROW).to_pylist():
            if row <= last:
                raise OutputError(
                    f"row {row} comes twice, or out of order: a part is not the run's"
                )
            last = row
        yield table
    if found != rows:
        raise OutputError(
            f"the parts have {found} rows where {rows} have a prediction: one is not the run's",
            "Give the run another --run NAME to do it afresh.",
        )


def _write_parquet(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
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
