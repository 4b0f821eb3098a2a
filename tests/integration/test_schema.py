"""Migrations: the same result as psql, once, all or nothing, and never backwards."""

from __future__ import annotations

import secrets
import shutil
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from peers.database import schema
from peers.database.connection import connect
from peers.errors import (
    ConfigError,
    NotPermitted,
    PeersError,
    SchemaMissing,
    SchemaNewer,
    SchemaUnreleased,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peers.database.connection import Connection

EVERYTHING = """
    select 'function', p.oid::regprocedure::text, md5(prosrc || coalesce(proconfig::text, '')
               || coalesce(proacl::text, '') || coalesce(obj_description(p.oid), ''))
    from pg_proc p where pronamespace = 'peers'::regnamespace
    union all
    select 'relation', c.relname, md5(coalesce(reloptions::text, '') || coalesce(relacl::text, ''))
    from pg_class c where relnamespace = 'peers'::regnamespace
    union all
    select 'column', attrelid::regclass || '.' || attname,
           format_type(atttypid, atttypmod) || attnotnull
               || coalesce(col_description(attrelid, attnum), '')
    from pg_attribute join pg_class on pg_class.oid = attrelid
    where relnamespace = 'peers'::regnamespace and attnum > 0 and relkind in ('r', 'v')
    union all
    select 'trigger', tgrelid::regclass || '.' || tgname, pg_get_triggerdef(t.oid)
    from pg_trigger t where tgrelid::regclass::text like 'peers.%'
    order by 1, 2
"""


def _open(url: str) -> Iterator[Connection]:
    connection = connect(url, application_name="test")
    yield connection
    connection.close()


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Connection]:
    """A connection to a database without the schema."""
    yield from _open(empty_database_url)


@pytest.fixture
def installed(database_url: str) -> Iterator[Connection]:
    """A connection to a database into which the files were run one by one, as psql does it."""
    yield from _open(database_url)


@pytest.fixture
def extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the SQL files, which this package takes for its own."""
    copy = tmp_path / "sql"
    shutil.copytree(schema.folder(), copy)
    monkeypatch.setattr(schema, "folder", lambda: copy)
    return copy


def test_migrate_makes_what_the_files_make(empty: Connection, installed: Connection) -> None:
    """Functions, tables, columns, triggers, rights and comments are the same, to the letter."""
    schema.migrate(empty)
    assert empty.execute(EVERYTHING).fetchall() == installed.execute(EVERYTHING).fetchall()
    assert schema.installed_version(empty) == schema.installed_version(installed)
    schema.require(empty)


def test_a_second_run_leaves_the_tables_alone(installed: Connection) -> None:
    """Tables are applied once, all other files again; tasks stay."""
    installed.execute("insert into peers.task (kind) values ('a')")
    applied = schema.migrate(installed)
    assert "10_task.sql" not in applied
    assert "24_submit.sql" in applied
    assert installed.execute("select count(*) from peers.task").fetchall() == [(1,)]


def test_the_files_are_plain_ascii() -> None:
    """A database of any encoding takes them, by psql under any locale too."""
    for step in schema.steps():
        assert step.file.read_bytes().isascii(), step.file.name


def test_a_dry_run_names_the_files_and_does_nothing(empty: Connection) -> None:
    """The files are applied in the order of their names."""
    named = schema.migrate(empty, dry_run=True)
    assert named == sorted(named)
    assert named[0] == "00_schema.sql"
    assert schema.installed_version(empty) is None


def test_a_migration_is_applied_once(installed: Connection, extended: Path) -> None:
    """By number, after the tables and before the functions, and never again."""
    file = extended / "19_0002_a_column.sql"
    file.write_text("alter table peers.task add column colour text;")
    applied = schema.migrate(installed)
    assert applied.index("19_0002_a_column.sql") < applied.index("20_validate.sql")
    assert schema.installed_version(installed) == 2
    assert "19_0002_a_column.sql" not in schema.migrate(installed)


def test_a_fresh_database_gets_every_migration(empty: Connection, extended: Path) -> None:
    """The tables as first released, then what changed since."""
    (extended / "19_0002_a_column.sql").write_text("alter table peers.task add column colour text;")
    (extended / "19_0003_its_type.sql").write_text(
        "alter table peers.task alter column colour type char(6);"
    )
    applied = schema.migrate(empty)
    last = applied.index("20_validate.sql")
    assert applied[last - 2 : last] == ["19_0002_a_column.sql", "19_0003_its_type.sql"]
    assert schema.installed_version(empty) == 3


def test_psql_applies_migrations_too(empty: Connection, extended: Path) -> None:
    """`cat sql/[0-9]*.sql` has every file in the right order, and `migrate` then has none to do."""
    (extended / "19_0002_a_column.sql").write_text(
        "alter table peers.task add column colour text;"
        " insert into peers.migration (version, name) values (2, '19_0002_a_column.sql')"
        " on conflict do nothing;"
    )
    files = sorted(extended.glob("[0-9]*.sql"), key=lambda file: file.name)
    assert files == [step.file for step in schema.steps()]
    for file in files:
        empty.execute(file.read_bytes())
    assert schema.installed_version(empty) == 2
    assert "19_0002_a_column.sql" not in schema.migrate(empty)


def test_a_broken_file_changes_nothing(empty: Connection, extended: Path) -> None:
    """One transaction: all of it or none."""
    (extended / "24_submit.sql").write_text("select 1/0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        schema.migrate(empty)
    assert schema.installed_version(empty) is None


@pytest.mark.parametrize(
    "older",
    ["alter table peers.task drop column stopped_because cascade",
     "create function peers.release(uuid, bigint[], uuid[]) returns integer return 0"],
)  # fmt: skip
def test_a_schema_from_before_the_first_release_is_named(installed: Connection, older: str) -> None:
    """A column that is missing, a function in another form: nothing is changed, the remedy is
    named.
    """
    installed.execute(older.encode())
    with pytest.raises(ConfigError, match=r"(?s)sql does not fit .*DROP SCHEMA"):
        schema.migrate(installed)


def test_a_table_that_is_missing_is_noticed_before_it_is_used(installed: Connection) -> None:
    """A schema from before the first release may have the version of the first one."""
    schema.require(installed)
    installed.execute(b"drop table peers.graph cascade")
    for check in (schema.require, schema.migrate):
        with pytest.raises(SchemaUnreleased, match=r"it lacks peers\.graph\. .*DROP SCHEMA"):
            check(installed)


@pytest.mark.parametrize("name", ["0002_fix.sql", "fix.sql", "19_2_fix.sql", "19_fix.sql"])
def test_a_file_that_would_not_be_applied_is_refused(
    empty: Connection, extended: Path, name: str
) -> None:
    """It is not silently ignored: the error says how it must be named."""
    (extended / name).write_text("")
    with pytest.raises(ConfigError, match=rf"{name} would never .* Name a .* 19_NNNN_reason\.sql"):
        schema.migrate(empty)


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["19_0001_a.sql"], "19_0001_a.sql should be migration 0002"),
        (["19_0002_a.sql", "19_0002_b.sql"], "19_0002_b.sql should be migration 0003"),
        (["19_0002_a.sql", "19_0004_b.sql"], "19_0004_b.sql should be migration 0003"),
    ],
)
def test_migrations_are_counted(
    empty: Connection, extended: Path, names: list[str], wrong: str
) -> None:
    """Two branches that add the same number are noticed when they are merged."""
    for name in names:
        (extended / name).write_text("")
    with pytest.raises(ConfigError, match=wrong):
        schema.migrate(empty)


def test_an_editors_hidden_file_is_no_migration(extended: Path) -> None:
    """Such as the lock that Emacs leaves beside a file that it edits."""
    (extended / ".#10_task.sql").write_text("")
    assert all(step.file.name[0].isdigit() for step in schema.steps())


@pytest.mark.parametrize(
    "newer",
    [
        "insert into peers.migration (version, name) values (9999, '9999_x.sql')",
        "create or replace function peers.contract_version() returns integer"
        " language sql immutable as 'select 9999'",
    ],
)
def test_a_newer_database_is_not_turned_back(installed: Connection, newer: str) -> None:
    """Neither newer tables nor a newer contract are overwritten by an older package."""
    installed.execute(newer.encode())
    with pytest.raises(SchemaNewer, match=r"9999.*Install the newer release"):
        schema.migrate(installed)


def test_a_newer_contract_is_refused_and_no_schema_is_explained(
    empty: Connection, installed: Connection
) -> None:
    """Commands that need the schema say what to run."""
    with pytest.raises(SchemaMissing, match="peers migrate"):
        schema.require(empty)
    installed.execute(
        "create or replace function peers.contract_version() returns integer"
        " language sql immutable as 'select 2'"
    )
    with pytest.raises(SchemaNewer, match="contract version 2, and this package supports 1"):
        schema.require(installed)


def test_without_the_right_to_create_a_schema_it_says_so(empty: Connection) -> None:
    """The error names the remedy, and the role that may not is not left half way."""
    nobody = sql.Identifier(f"nobody_{secrets.token_hex(4)}")
    empty.execute(sql.SQL("create role {}").format(nobody))
    try:
        empty.execute(sql.SQL("set role {}").format(nobody))
        with pytest.raises(NotPermitted, match=r"permission denied.*Migrate as the owner"):
            schema.migrate(empty)
    finally:
        empty.execute("reset role")
        empty.execute(sql.SQL("drop role {}").format(nobody))


def test_a_lock_that_does_not_come_is_given_up(
    installed: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration behind somebody's long transaction must not hold up everybody else for long."""
    monkeypatch.setattr(schema, "_TRIES", 1)
    with psycopg.connect(database_url) as other:
        other.execute("lock table peers.task in row exclusive mode")
        with pytest.raises(PeersError, match="Nothing was changed"):
            schema.migrate(installed)
    assert schema.migrate(installed)
