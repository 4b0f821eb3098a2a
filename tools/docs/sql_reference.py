"""docs/sql.md: every table, view, type and function, from the comments of a migrated database."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from tools.docs.markdown import code, notice, table

_SQL: Final = Path(__file__).parents[2] / "sql"
_DEFINED: Final = re.compile(
    r"^\s*create (?:or replace )?(?P<sort>function|view|table|type)(?: if not exists)? "
    r"peers\.(?P<name>\w+)",
    re.MULTILINE,
)
_ROLES: Final = ("peers_submitter", "peers_worker", "peers_operator", "peers_reader")
_INTRODUCTION: Final = """
# SQL reference

Everything is in the schema `peers`. An application inserts into `peers.task` and calls the
functions below; a peer in any language calls those of `40_peers.sql` to `59_promote.sql`. Functions
whose names begin with `_` are internal and are left out. In psql, `TABLE peers.manual`,
`\\d+ peers.task` and `\\df+ peers.*` show the same texts.

"Roles" says which of the optional roles may call a function; the owner of the schema may call all.
A heading names the file in `sql/` that defines what is below it.
"""


class _Relation(NamedTuple):
    comment: str
    columns: list[tuple[str, str, str]]


def page(connection: psycopg.Connection[Any]) -> str:
    """Return the page for the schema of this database."""
    functions, relations, types = (
        _functions(connection), _relations(connection), _types(connection),
    )  # fmt: skip
    parts = [notice("COMMENT ON in sql/"), _INTRODUCTION]
    for file in sorted(_SQL.glob("[0-9][0-9]_*.sql")):
        names = {(m["sort"], m["name"]): None for m in _DEFINED.finditer(file.read_text())}
        texts = [
            text
            for sort, name in names
            for text in _described(sort, name, functions, relations, types)
        ]
        if texts:
            parts += [f"\n## {file.name}\n\n{_lead(file)}\n", *texts]
    return "".join(parts)


def _lead(file: Path) -> str:
    """Return the first paragraph of the comment at the head of a file."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("-- "):
            break
        lines.append(line.removeprefix("-- "))
    return "\n".join(lines)


def _described(
    sort: str,
    name: str,
    functions: dict[str, list[str]],
    relations: dict[str, _Relation],
    types: dict[str, str],
) -> Iterable[str]:
    if sort == "function":
        return functions.get(name, [])
    if sort == "type" and name in types:
        return [f"\n### type {name}\n\n{types[name]}\n"]
    if name not in relations:
        return []
    relation = relations[name]
    rows = [(code(column), code(kind), comment) for column, kind, comment in relation.columns]
    columns = "\n" + table(("column", "type", "meaning"), rows) if rows else ""
    return [f"\n### {sort} {name}\n\n{relation.comment}\n{columns}"]


def _functions(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, arguments, result, comment, roles in _rows(
        connection,
        """
        select p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
               obj_description(p.oid, 'pg_proc'),
               array(select r.rolname from pg_roles r
                     where r.rolname = any (%(roles)s)
                       and has_function_privilege(r.oid, p.oid, 'execute') order by 1)
        from pg_proc p
        where p.pronamespace = 'peers'::regnamespace and p.proname !~ '^_'
          and p.prorettype <> 'trigger'::regtype
        order by p.proname, pg_get_function_arguments(p.oid)
        """,
    ):
        signature = f"peers.{name}({arguments}) → {_short(result)}"
        found.setdefault(name, []).append(
            f"\n### {name}\n\n```text\n{_folded(signature)}\n```\n\n{comment}\n{_granted(roles)}"
        )
    return found


def _relations(connection: psycopg.Connection[Any]) -> dict[str, _Relation]:
    found: dict[str, _Relation] = {}
    for name, comment in _rows(
        connection,
        """
        select c.relname, obj_description(c.oid, 'pg_class') from pg_class c
        where c.relnamespace = 'peers'::regnamespace and c.relkind in ('r', 'v')
        """,
    ):
        found[name] = _Relation(comment, [])
    for name, column, kind, comment in _rows(
        connection,
        """
        select c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
               col_description(c.oid, a.attnum)
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace = 'peers'::regnamespace and c.relkind in ('r', 'v')
          and a.attnum > 0 and not a.attisdropped
        order by c.relname, a.attnum
        """,
    ):
        found[name].columns.append((column, kind, comment or ""))
    return found


def _types(connection: psycopg.Connection[Any]) -> dict[str, str]:
    rows = _rows(
        connection,
        """
        select t.typname, obj_description(t.oid, 'pg_type') from pg_type t
        where t.typnamespace = 'peers'::regnamespace and t.typtype = 'e'
        """,
    )
    return {str(name): str(comment) for name, comment in rows}


def _rows(connection: psycopg.Connection[Any], query: LiteralString) -> list[tuple[Any, ...]]:
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        return cursor.execute(query, {"roles": list(_ROLES)}).fetchall()


def _short(result: str) -> str:
    return result.replace("TABLE(", "table (").replace("SETOF ", "set of ")


def _folded(signature: str, width: int = 110) -> str:
    """Break a long signature at its commas."""
    if len(signature) <= width:
        return signature
    head, _, tail = signature.partition("(")
    arguments, arrow, result = tail.rpartition(") → ")
    broken = ",\n    ".join(arguments.split(", "))
    return f"{head}(\n    {broken}\n{arrow}{result}"


def _granted(roles: list[str]) -> str:
    return f"\nRoles: {', '.join(code(role) for role in roles)}.\n" if roles else ""
