"""The catalog is the manual: everything has its comment, and nothing leans on a search_path."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.support.server import sql_files
from tests.support.world import column, value

if TYPE_CHECKING:
    from tests.support.server import Connection


def test_the_head_of_the_schema_names_every_file() -> None:
    """By its number: a reader finds there what a file is about."""
    first, *others = sql_files()
    named: set[int] = set()
    for numbers in re.findall(r"^--   (\d.*?)   ", first.read_text(), re.MULTILINE):
        for low, high in re.findall(r"(\d\d)(?:(?: to |-)(\d\d))?(?!\d|_)", numbers):
            named.update(range(int(low), int(high or low) + 1))
    assert {int(file.name[:2]) for file in others} <= named


def test_every_table_and_view_has_a_comment(db: Connection) -> None:
    r"""`\d+` explains each of them."""
    query = (
        "select oid::regclass::text from pg_class where relnamespace = 'peers'::regnamespace"
        " and relkind in ('r', 'v', 'm') and obj_description(oid, 'pg_class') is null"
    )
    assert column(db, query) == []
    assert value(db, "select obj_description('peers'::regnamespace, 'pg_namespace')")


def test_every_column_has_a_comment(db: Connection) -> None:
    """Of tables and views alike."""
    query = (
        "select attrelid::regclass || '.' || attname from pg_attribute"
        " join pg_class c on c.oid = attrelid where relnamespace = 'peers'::regnamespace"
        " and relkind in ('r', 'v', 'm') and attnum > 0 and not attisdropped"
        " and col_description(attrelid, attnum) is null"
    )
    assert column(db, query) == []


def test_every_public_function_has_a_comment(db: Connection) -> None:
    r"""`\df+` explains each function that is not named _like_this."""
    query = (
        "select oid::regprocedure::text from pg_proc where pronamespace = 'peers'::regnamespace"
        " and proname not like '\\_%' and obj_description(oid, 'pg_proc') is null"
    )
    assert column(db, query) == []
    assert value(db, "select count(*) from pg_proc where pronamespace = 'peers'::regnamespace") > 30


def test_every_type_has_a_comment(db: Connection) -> None:
    """The states and the policies are explained."""
    query = (
        "select oid::regtype::text from pg_type where typnamespace = 'peers'::regnamespace"
        " and typtype = 'e' and obj_description(oid, 'pg_type') is null"
    )
    assert column(db, query) == []


def test_every_function_pins_its_search_path(db: Connection) -> None:
    """pg_catalog first, pg_temp last, whatever the caller's session says.

    A function whose body is not a string needs none: its names were resolved when it was created.
    """
    query = (
        "select oid::regprocedure::text from pg_proc where pronamespace = 'peers'::regnamespace"
        " and prosqlbody is null and prokind <> 'a'"
        " and not coalesce('search_path=pg_catalog, peers, pg_temp' = any (proconfig), false)"
    )
    assert column(db, query) == []


def test_no_index_hinders_a_hot_update(db: Connection) -> None:
    """No index of peers.task mentions a column that changes after the submission."""
    query = (
        "select distinct attname::text from pg_index i join pg_attribute a"
        " on a.attrelid = i.indrelid and a.attnum = any (i.indkey)"
        " where i.indrelid = 'peers.task'::regclass order by 1"
    )
    assert column(db, query) == ["graph_id", "id", "idempotency_key"]


def test_every_table_can_be_published(db: Connection) -> None:
    """A publication refuses UPDATE and DELETE of a table whose rows it cannot tell apart."""
    query = (
        "select c.oid::regclass::text from pg_class c where relnamespace = 'peers'::regnamespace"
        " and relkind = 'r' and relreplident <> 'f' and not exists"
        " (select from pg_index i where i.indrelid = c.oid and i.indisprimary)"
    )
    assert column(db, query) == []


def test_the_schema_needs_no_extension(db: Connection) -> None:
    """A plain Postgres is enough."""
    assert column(db, "select extname::text from pg_extension") == ["plpgsql"]


def test_functions_that_pin_their_plans_are_not_compiled(db: Connection) -> None:
    """Before 18 a discouraged plan counts as so dear that each would be compiled, for 100 ms."""
    query = (
        "select oid::regprocedure::text from pg_proc where pronamespace = 'peers'::regnamespace"
        " and exists (select from unnest(proconfig) setting where setting like 'enable%')"
        " and not 'jit=off' = any (proconfig)"
    )
    assert column(db, query) == []
