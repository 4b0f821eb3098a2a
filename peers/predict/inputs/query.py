"""What a Postgres query answers, streamed into a file that chunks can refer to."""

from __future__ import annotations

import decimal
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError

if TYPE_CHECKING:
    from sqlalchemy import URL

_AT_ONCE: Final = 10_000


def snapshot(url: str, query: str, target: Path) -> int:
    """Writes the query's rows to a Parquet file; how many.

    Read only, by a server-side cursor, never all rows in memory. Types are those of the first rows:
    numerics become doubles; UUIDs and JSON texts. Raises InputError with the database's sentence.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(_url(url))
    try:
        with engine.connect().execution_options(
            stream_results=True, postgresql_readonly=True, yield_per=_AT_ONCE
        ) as connection:
            answer = connection.execute(text(query.replace(":", r"\:")))
            if not answer.returns_rows:
                raise InputError("the query answers no rows", "Write one that selects.")
            return _write(list(answer.keys()), answer.partitions(), target)
    except SQLAlchemyError as error:
        sentence = str(getattr(error, "orig", None) or error).strip()
        raise InputError(f"the query on {hidden(url)} failed: {sentence}") from error
    except pa.ArrowException as error:
        raise InputError(
            f"the query's rows do not fit one another: {error}",
            "Cast the column to one type in the query.",
        ) from error
    finally:
        engine.dispose()


def hidden(url: str) -> str:
    """The URL without its password."""
    return _url(url).set(password=None).render_as_string()


def _url(url: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).set(drivername="postgresql+psycopg")
    except ArgumentError:
        raise InputError(
            "the input is no URL of a database", "Write postgresql://user@host/database."
        ) from None


def _write(names: list[str], partitions: Iterable[Iterable[Any]], target: Path) -> int:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the query names {', '.join(twice)} twice", "Give each column a name.")
    rows = 0
    writer: pq.ParquetWriter | None = None
    try:
        for columns in map(_columns, partitions):
            if writer is None:
                arrays = [pa.array(column) for column in columns]
                schema = _settled(pa.table(arrays, names=names).schema)
                writer = pq.ParquetWriter(target, schema)
            table = pa.table(
                [
                    pa.array(column, field.type)
                    for column, field in zip(columns, writer.schema, strict=True)
                ],
                schema=writer.schema,
            )
            writer.write_table(table)
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if not rows:
        raise InputError("the query answers no rows", "There is nothing to predict.")
    return rows


def _columns(partition: Iterable[Any]) -> list[list[Any]]:
    return [[_plain(value) for value in column] for column in zip(*partition, strict=True)]


def _plain(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return value


def _settled(schema: pa.Schema) -> pa.Schema:
    """A column that was null so far is taken for numbers."""
    return pa.schema(
        [
            field.with_type(pa.float64()) if pa.types.is_null(field.type) else field
            for field in schema
        ]
    )
