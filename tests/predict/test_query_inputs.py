"""Queries as inputs: the frame that pandas.read_sql gives, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine

from peers.predict import inputs
from peers.predict.column_metadata import NULLS, READER
from peers.predict.errors import InputError
from peers.predict.inputs import query as queries
from peers.predict.inputs.query import snapshot
from peers.predict.models.plain_rows import plain_rows
from tests.predict.as_pandas import frame
from tests.predict.test_inputs_hostile import url_of

TYPES = """
    create type mood as enum ('sad', 'glad');
    create domain age as int check (value > 0);
    create domain code as text;
    create type pair as (a int, b text);
"""
COLUMNS = {
    "int2": "n::int2", "int4": "n::int4", "int8": "n::int8 + 9007199254740993",
    "int with null": "nullif(n, 7)", "bool": "n > 3", "bool with null": "nullif(n > 3, n = 7)",
    "numeric": "n / 3.0", "numeric with null": "nullif(n, 7) / 3.0",
    "float4": "(n / 7.0)::float4", "float8": "n / 7.0::float8", "nan": "'nan'::float4",
    "text": "'%s ' || n", "late text": "case when n = 7 then 'V' end", "bpchar": "'a'::char(3)",
    "enum": "case when n % 2 = 0 then 'sad'::mood else 'glad' end", "domain": "(n + 1)::age",
    "text domain": "('0' || n)::code",
    "timestamp": "timestamp '2024-02-29 12:00:00.123456' + n * interval '1 h'",
    "timestamptz": "timestamptz '2024-02-29 12:00:00+02' + n * interval '1 h'",
    "date": "date '2024-02-29' + n", "time": "time '12:00' + n * interval '1 s'",
    "interval": "n * interval '90 min'", "bytea": "decode('00ff', 'hex')",
    "array": "array[n, null]", "texts": "array['a', null]",
}  # fmt: skip
UUID = "00000000-0000-0000-0000-00000000000a"
AS_TEXTS = {
    "json": ("""'{"a":  [1.10, null]}'::json""", '{"a":  [1.10, null]}'),
    "jsonb": ("""'{"b": 9007199254740993}'::jsonb""", '{"b": 9007199254740993}'),
    "uuid": (f"'{UUID}'::uuid", UUID),
    "inet": ("inet '10.0.0.1/8'", "10.0.0.1/8"), "range": ("int4range(1, 5)", "[1,5)"),
    "timetz": ("timetz '12:00+02'", "12:00:00+02"), "money": ("'1.5'::money", "$1.50"),
    "composite": ("row(1, 'x y')::pair", '(1,"x y")'), "bits": ("b'101'", "101"),
    "moods": ("array['sad'::mood]", "{sad}"), "char": ("""'x'::"char\"""", "x"),
}  # fmt: skip


@pytest.fixture
def url(database_url: str) -> str:
    """A database with types of its own."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TYPES)
    return url_of(database_url)


def read(url: str, query: str, folder: Path, id_column: str | None = None) -> pa.Table:
    """All rows of the query, as one chunk."""
    with inputs.survey(inputs.Source(url, query, id_column), folder) as survey:
        assert survey.schema.metadata[READER] == b"query"
        source = survey.with_types(survey.schema, folder)
    [chunk] = inputs.chunks(source, 1_000_000)
    rows = inputs.read(source, chunk, source.schema.names)
    assert not rows.bad
    return rows.table


@pytest.mark.parametrize("with_others", [False, True])
def test_a_frame_is_that_of_read_sql(url: str, with_others: bool, tmp_path: Path) -> None:
    """By dtypes and values, whether the driver has a binary form for all columns or not."""
    listed = [
        f'{sql} as "{name}"' for name, sql in COLUMNS.items() if with_others or name != "enum"
    ]
    query = f"select {', '.join(listed)} from generate_series(0, 299) n order by n"
    truth = read_sql(url, query)
    table = read(url, query, tmp_path)
    for name in ("array", "texts"):  # of which Arrow makes arrays of numpy
        assert table.column(name).to_pylist() == truth.pop(name).to_list()
        table = table.drop_columns([name])
    found = frame(table)
    for name, dtype in truth.dtypes.items():
        if "[ns" in str(dtype):  # pandas 2 has no other unit here
            found[name] = found[name].astype(dtype)
    pd.testing.assert_frame_equal(found, truth, check_exact=True)


def read_sql(url: str, query: str) -> pd.DataFrame:
    """What pandas makes of the query."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    try:
        return pd.read_sql_query(query.replace("%", "%%"), engine)
    finally:
        engine.dispose()


@pytest.mark.parametrize("with_others", [False, True])
def test_what_pandas_has_no_dtype_for_is_a_text(
    url: str, with_others: bool, tmp_path: Path
) -> None:
    """As the server writes it; JSON says so of itself, and is an object where rows are."""
    listed = {k: v for k, v in AS_TEXTS.items() if with_others or k in ("json", "jsonb", "uuid")}
    query = "select " + ", ".join(f'{sql} as "{name}"' for name, (sql, _) in listed.items())
    table = read(url, query, tmp_path)
    assert table.to_pylist() == [{name: text for name, (_, text) in listed.items()}]
    [row] = plain_rows(table)
    assert (row["json"], row["jsonb"]) == ({"a": [1.1, None]}, {"b": 2**53 + 1})


def test_no_digit_is_lost(url: str, tmp_path: Path) -> None:
    """Of whole numbers beside gaps, and of ids that are numerics; gaps are marked."""
    query = f"""select {2**53 + 1}::int8 as whole, n, 12345678901234567890.10 as id
        from (values (1), (null), ({2**31 - 1})) v (n)"""
    table = read(url, query, tmp_path, "id")
    assert table.column("n").to_pylist() == [1, None, 2**31 - 1]
    assert [NULLS in (field.metadata or {}) for field in table.schema] == [False, True, False]
    assert table.column("whole")[0].as_py() == 2**53 + 1
    assert table.column("id")[0].as_py() == "12345678901234567890.10"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("select", "returns no columns"),
        ("select from generate_series(1, 3)", "returns no columns"),
        ("create table t (n int)", "returns no columns"),
        ("select 1 as x where false", "no rows"),
        ("select 1 as x; select 2 as y", "several statements"),
        ("select 1 as x; drop table t", "several statements"),
        ("", "returns no columns"),
        ("show work_mem", "not a SELECT"),
        ("explain select 1", "not a SELECT"),
        ("insert into kept values (1) returning n", "not a SELECT"),
        ("with w as (insert into kept values (1) returning n) select * from w", "modifying"),
        ("select nextval('numbers')", "read-only"),
        ("select n from kept where n = %s", "no value here"),
        ("select n from kept where n = :x", "no value here"),
        ("select n from kept where n = %(x)s", "no value here"),
        ("select n from kept where n = $1", "1 parameters"),
        ("select 1 as x, 2 as x", "names x twice"),
        ("select 1 / 0 as x", "division by zero"),
        ("select * from nowhere", "does not exist"),
        ("select 'infinity'::timestamptz as t", "too large"),
    ],
)
def test_a_query_that_gives_no_input_is_told_why(
    url: str, query: str, says: str, tmp_path: Path
) -> None:
    """In words, with nothing written, neither in the database nor beside the output."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create table kept (n int)")
        connection.execute("create sequence numbers")
        with pytest.raises(InputError, match=says):
            snapshot(url, query, tmp_path / "query.parquet")
        assert connection.execute("select count(*) from kept").fetchone() == (0,)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "query",
    [
        "select 'a:b %s $1' as x; -- the end",
        "/* one */ select 'a:b %s $1' as x -- :y",
        "values ('a:b %s $1')",
        "with w as (select 'a:b %s $1' as x) table w",
        "(select 'a:b %s $1' as x)",
    ],
)
def test_a_query_is_sent_as_it_is(url: str, query: str, tmp_path: Path) -> None:
    """Comments, semicolons, and what looks like a parameter in a text or a comment."""
    assert read(url, query, tmp_path).column(0).to_pylist() == ["a:b %s $1"]


def test_a_url_of_several_hosts_a_service_and_the_environment(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever libpq connects to; a driver that SQLAlchemy wants is no part of it."""
    parts: dict[str, str] = {k: str(v) for k, v in conninfo_to_dict(database_url).items()}
    host, port = parts["host"], parts.get("port", "5432")
    several = (
        f"postgresql+psycopg://{parts['user']}@/{parts['dbname']}?host={tmp_path},{host}"
        f"&port=1,{port}&target_session_attrs=read-write"
    )
    if "password" in parts:
        several += f"&password={parts['password']}"
    target = tmp_path / "query.parquet"
    assert snapshot(several, "select 1 as x", target) == 1
    services = tmp_path / "services.conf"
    services.write_text("[here]\n" + "".join(f"{k}={v}\n" for k, v in parts.items()))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert snapshot("postgresql:///?service=here", "select 1 as x", target) == 1
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    for key, value in parts.items():
        monkeypatch.setenv(names.get(key, f"PG{key.upper()}"), value)
    assert snapshot("postgresql://", "select 1 as x", target) == 1


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql+psycopg://me:sesame@a:1,b:2/db?target_session_attrs=any",
            "postgresql://me:***@a:1,b:2/db?target_session_attrs=any",
        ),
        ("postgres://h/d?sslpassword=sesame", "postgresql://h/d?sslpassword=***"),
        ("postgresql://me@[::1]:5/d", "postgresql://me@[::1]:5/d"),
        ("postgresql://me@/d?host=/run/pg&port=7", "postgresql://me@/d?host=/run/pg&port=7"),
        ("postgresql:///?service=here", "postgresql:///?service=here"),
        ("postgresql://a,b:7/d", "postgresql://a,b:7/d"),
    ],
)
def test_a_url_is_shown_without_its_passwords(url: str, shown: str) -> None:
    """And otherwise as it was."""
    assert inputs.hidden(url) == shown


def test_large_rows_are_fetched_few_at_a_time(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory has a bound, however large the rows are."""
    sizes: list[int] = []
    fetch = psycopg.ServerCursor.fetchmany

    def counted(self: Any, size: int = 0) -> list[Any]:
        sizes.append(size)
        return fetch(self, size)

    monkeypatch.setattr(psycopg.ServerCursor, "fetchmany", counted)
    monkeypatch.setattr(queries, "_BYTES", 1 << 20)
    monkeypatch.setattr(queries, "_GROUP_BYTES", 1 << 20)
    target = tmp_path / "query.parquet"
    query = "select n, repeat('x', 20000) as t from generate_series(1, 500) n"
    assert snapshot(url, query, target) == 500
    assert max(sizes[1:]) * 20_000 <= 1 << 20
    with pq.ParquetFile(target) as file:
        assert file.num_row_groups > 4
