"""What a Postgres query answers, streamed into a file that chunks can refer to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from peers.predict.errors import InputError
from peers.predict.inputs.database_types import Plain, columns_of
from peers.predict.outputs.durable import replaced

if TYPE_CHECKING:
    from sqlalchemy import URL, CursorResult

_AT_ONCE: Final = 10_000


def snapshot(url: str, query: str, target: Path, id_column: str | None = None) -> int:
    """Writes the query's rows to a Parquet file; how many.

    Read only, by a server-side cursor, never all rows in memory. Types are the
    server's: numerics become doubles; UUIDs and JSON texts. The file is there whole or not at all.
    Raises InputError with the database's sentence, OutputError when the disk is full.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(_url(url))
    try:
        with (
            engine.connect().execution_options(
                stream_results=True, postgresql_readonly=True, yield_per=_AT_ONCE
            ) as connection,
            connection.execute(text(query.replace(":", r"\:"))) as answer,
        ):
            if not answer.returns_rows:
                raise InputError("the query answers no rows", "Write one that selects.")
            return _write(answer, target, id_column)
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
    """The URL with *** for each password in it."""
    found = _url(url)
    query = {key: "***" if "password" in key else value for key, value in found.query.items()}
    return found.set(query=query).render_as_string().replace("%2A%2A%2A", "***")


def _url(url: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        found = make_url(url).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):  # whose message may hold the password
        found = None
    if found is None or "@" in (found.host or ""):
        raise InputError(
            "the input is no URL of a database",
            "Write postgresql://user@host:5432/database; an @ in a password is written %40.",
        )
    return found


def _write(answer: CursorResult[Any], target: Path, id_column: str | None) -> int:
    schema, plain = columns_of(answer.cursor.description or (), id_column)
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError(f"the query names {', '.join(twice)} twice", "Give each column a name.")
    rows = 0
    with replaced(target) as temporary:
        with pq.ParquetWriter(temporary, schema) as writer:
            for partition in answer.partitions():
                arrays = [
                    pa.array(_plain(values, convert), field.type)
                    for values, convert, field in zip(
                        zip(*partition, strict=True), plain, schema, strict=True
                    )
                ]
                writer.write_table(pa.table(arrays, schema=schema))
                rows += len(partition)
        if not rows:
            raise InputError("the query answers no rows", "There is nothing to predict.")
    return rows


def _plain(values: Sequence[Any], convert: Plain | None) -> Sequence[Any]:
    if convert is None:
        return values
    return [None if value is None else convert(value) for value in values]
