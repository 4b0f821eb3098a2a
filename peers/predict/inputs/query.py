"""Stream the rows of a Postgres query into a file that chunks can refer to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import IsolationLevel
from psycopg.errors import SyntaxError as SqlSyntaxError
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

from peers.predict.atomic_files import atomic_write
from peers.predict.errors import InputError
from peers.predict.inputs.database_types import Column, column_of, read_as_texts
from peers.predict.inputs.database_url import conninfo_of, hidden

_FIRST: Final = 100
_MOST: Final = 10_000
"""The most rows per fetch."""
_BYTES: Final = 16 << 20
"""About the most bytes per fetch."""
_GROUP: Final = 1 << 16
"""The most rows of a row group."""
_GROUP_BYTES: Final = 64 << 20
_PARAMETER: Final = re.compile(r"%s|%\(\w+\)s|\$\d|(?<![:\w]):[a-z_]\w*")
_NO_VALUES: Final = (
    "Parameters such as %s, :x and $1 have no value here: write the values into the query."
)
_WRONG_SQL: Final = "42"
"""Prefixes of SQLSTATEs that are the fault of the query."""


def snapshot(url: str, query: str, target: Path, id_column: str | None = None) -> int:
    """Write the query's rows to a Parquet file; return their number.

    They are read in one read-only snapshot with a server-side cursor, so memory stays bounded.
    Types are the server's. The file is complete or missing. Raises InputError with the database's
    message, and OutputError when the disk is full.
    """
    conninfo = conninfo_of(url)
    try:
        with psycopg.connect(
            conninfo, client_encoding="utf8", prepare_threshold=None
        ) as connection:
            connection.read_only = True
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            with connection.transaction():
                columns = _described(connection, query, id_column)
                return _write(_batches(connection, query, columns), columns, target)
    except psycopg.Error as error:
        sentence = str(error).strip()
        is_wrong = (error.sqlstate or "").startswith(_WRONG_SQL)
        hint = _NO_VALUES if is_wrong and _PARAMETER.search(query) else None
        raise InputError(f"the query on {hidden(url)} failed: {sentence}", hint) from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"the query's rows have no common type: {error}",
            "Cast the column to one type in the query.",
        ) from error


def _described(
    connection: psycopg.Connection[Any], query: str, id_column: str | None
) -> list[Column]:
    """Return the query's columns without executing it."""
    pgconn = connection.pgconn
    found = pgconn.prepare(b"", query.encode())
    if found.status == ExecStatus.COMMAND_OK:
        found = pgconn.describe_prepared(b"")
    if found.status != ExecStatus.COMMAND_OK:
        error = error_from_result(found)
        if "multiple commands" in str(error):
            raise InputError("the query has several statements", "Write a single SELECT.")
        raise error
    if found.nparams:
        raise InputError(
            f"the query has {found.nparams} parameters, which have no values",
            "Write the values into the query.",
        )
    names = [(found.fname(place) or b"").decode() for place in range(found.nfields)]
    if not names:
        raise InputError(
            "the query returns no columns",
            "Write one that selects columns, such as: select id, x from rows.",
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the query names {', '.join(twice)} twice", "Give each column a name.")
    return [column_of(name, found.ftype(place), id_column) for place, name in enumerate(names)]


def _batches(
    connection: psycopg.Connection[Any], query: str, columns: Sequence[Column]
) -> Iterator[pa.RecordBatch]:
    # binary values take the driver half of the time, but it does not know all types in that form
    binary = all(column.is_known for column in columns)
    schema = pa.schema([column.field for column in columns])
    with connection.cursor("peers_input", binary=binary) as cursor:
        read_as_texts(cursor, columns)
        try:
            cursor.execute(query.encode())
        except SqlSyntaxError as error:  # the query alone was valid, so the cursor is to blame
            raise InputError(
                "the query cannot be read row by row: it is not a SELECT, VALUES or TABLE",
                "Write a single SELECT.",
            ) from error
        size = _FIRST
        while rows := cursor.fetchmany(size):
            arrays = [
                column.array(values)
                for column, values in zip(columns, zip(*rows, strict=True), strict=True)
            ]
            batch = pa.record_batch(arrays, schema=schema)
            yield batch
            size = max(1, min(_MOST, _BYTES * len(rows) // max(1, batch.nbytes)))


def _write(batches: Iterator[pa.RecordBatch], columns: Sequence[Column], target: Path) -> int:
    first = next(batches, None)
    if first is None:
        raise InputError("the query returns no rows", "There is nothing to predict.")
    texts = [c.field.name for c in columns if pa.types.is_string(c.field.type)]
    rows = 0
    with (
        atomic_write(target) as temporary,
        # dictionaries of numbers save nothing
        pq.ParquetWriter(temporary, first.schema, use_dictionary=texts) as writer,
    ):
        group: list[pa.RecordBatch] = []
        held = held_bytes = 0
        for batch in chain([first], batches):
            group.append(batch)
            rows += batch.num_rows
            held, held_bytes = held + batch.num_rows, held_bytes + batch.nbytes
            if held >= _GROUP or held_bytes >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group, held, held_bytes = [], 0, 0
        if group:
            writer.write_table(pa.Table.from_batches(group))
    return rows
