"""Inputs as people have them: how they are written, and what pandas reads from them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.predict.matrix.oddities import ROWS, Oddity

_GROUP: Final = 250
"""Rows of a row group: dictionaries differ from group to group."""


@dataclass(frozen=True)
class Written:
    """An input in a file, or the rows of a query; and what pandas makes of it."""

    place: str
    query: str | None
    frame: pd.DataFrame


@dataclass(frozen=True)
class Format:
    """`write`: rows of an oddity into a folder."""

    name: str
    write: Callable[[Oddity, Path], Written]


def columns(oddity: Oddity) -> dict[str, list[Any]]:
    """The values of all columns; `a b` has a blank in its name."""
    return {
        "a b": [row * 37 % 101 / 8 for row in range(ROWS)],
        "age": [row * 31 % 83 for row in range(ROWS)],
        "odd": [oddity.value(row) for row in range(ROWS)],
    }


def _texts(oddity: Oddity, line_end: str, mark: str, path: Path) -> Written:
    values = columns(oddity)
    if oddity.spelled is not None:
        values["odd"] = [oddity.spelled(row) for row in range(ROWS)]
    lines = [
        ",".join(values),
        *(",".join(map(_quoted, row)) for row in zip(*values.values(), strict=True)),
    ]
    path.write_bytes((mark + line_end.join([*lines, ""])).encode())
    frame = pd.read_csv(path, dtype={"odd": str} if oddity.texts else None)
    return Written(os.fspath(path), None, frame)


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) and "," in value else str(value)


def _csv(oddity: Oddity, folder: Path) -> Written:
    return _texts(oddity, "\n", "", folder / "rows.csv")


def _excel(oddity: Oddity, folder: Path) -> Written:
    return _texts(oddity, "\r\n", "\N{BYTE ORDER MARK}", folder / "rows.csv")


def _json_lines(oddity: Oddity, folder: Path) -> Written:
    values, path = columns(oddity), folder / "rows.jsonl"
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    path.write_text("".join(json.dumps(row, default=_plain) + "\n" for row in rows))
    frame = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    return Written(os.fspath(path), None, frame)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else float(value)


def _parquet_of_pandas(oddity: Oddity, folder: Path) -> Written:
    path = folder / "rows.parquet"
    frame = pd.DataFrame(columns(oddity), index=pd.Index(range(5, ROWS + 5), name="key"))
    frame.to_parquet(path, row_group_size=_GROUP)
    return Written(os.fspath(path), None, pd.read_parquet(path))


def _parquet(oddity: Oddity, folder: Path) -> Written:
    path = folder / "rows.parquet"
    pq.write_table(pa.table(columns(oddity)), path, row_group_size=_GROUP)
    return Written(os.fspath(path), None, pd.read_parquet(path))


def _dictionary(oddity: Oddity, folder: Path) -> Written:
    path = folder / "rows.parquet"
    table = pa.table(columns(oddity))
    odd = table.column("odd").combine_chunks()
    if pa.types.is_string(odd.type):
        table = table.set_column(2, "odd", odd.dictionary_encode())
    with pq.ParquetWriter(path, table.schema) as writer:
        for first in range(0, ROWS, _GROUP):
            part = table.slice(first, _GROUP)
            if pa.types.is_dictionary(table.schema.field("odd").type):
                own = part.column("odd").cast(pa.string()).combine_chunks().dictionary_encode()
                part = part.set_column(2, "odd", own)
            writer.write_table(part)
    return Written(os.fspath(path), None, pd.read_parquet(path))


FORMATS: Final = (
    Format("CSV of pandas", _csv),
    Format("CSV of Excel", _excel),
    Format("JSON Lines", _json_lines),
    Format("Parquet of pandas", _parquet_of_pandas),
    Format("Parquet", _parquet),
    Format("Parquet with a dictionary", _dictionary),
)

_SQL: Final = {bool: "boolean", int: "bigint", float: "float8", str: "text", Decimal: "numeric",
               datetime: "timestamptz"}  # fmt: skip


def query_format(url: str) -> Format:
    """A query on this database, which pandas asks through SQLAlchemy."""

    def write(oddity: Oddity, folder: Path) -> Written:
        from sqlalchemy import create_engine, text

        del folder
        values = columns(oddity)
        kinds = {name: _SQL.get(type(next((v for v in column if v is not None), "")), "text")
                 for name, column in values.items()}  # fmt: skip
        query = 'select "a b", age, odd from rows order by place'
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.execute(text("drop table if exists rows"))
            declared = ", ".join(f'"{name}" {kind}' for name, kind in kinds.items())
            connection.execute(text(f"create table rows (place int, {declared})"))
            rows = [
                {"place": place, "a": a, "age": age, "odd": odd}
                for place, (a, age, odd) in enumerate(zip(*values.values(), strict=True))
            ]
            connection.execute(text("insert into rows values (:place, :a, :age, :odd)"), rows)
        with engine.connect() as connection:
            frame = pd.read_sql(text(query), connection)
        engine.dispose()
        return Written(url, query, frame)

    return Format("query", write)
