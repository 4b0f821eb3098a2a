"""Check that the schema is there, fits this package, and may be used by this role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from peers.database import schema
from peers.doctor.check import Check
from peers.doctor.findings import ERROR, Finding
from peers.errors import NotPermitted, SchemaMissing, SchemaNewer, SchemaUnreleased

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.database.connection import Connection
    from peers.doctor.check import CheckContext


class Rights(NamedTuple):
    """What the connected role may do."""

    role: str
    submits: bool
    works: bool
    reads: bool
    operates: bool
    examines: bool
    """It may call peers.doctor."""

    @property
    def words(self) -> str:
        """Return what the role may do, in words."""
        duties = {
            "submit": self.submits, "run a peer": self.works, "read": self.reads,
            "operate": self.operates,
        }  # fmt: skip
        return ", ".join(name for name, able in duties.items() if able) or "nothing"


_RIGHTS: Final = """
    with schema as (
        select n.oid from pg_namespace n
        where n.nspname = 'peers' and has_schema_privilege(n.oid, 'usage')
    ), callable as (
        select p.proname::text as name from pg_proc p join schema s on s.oid = p.pronamespace
        where has_function_privilege(p.oid, 'execute')
    ), task as (
        select c.oid from pg_class c join schema s on s.oid = c.relnamespace
        where c.relname = 'task'
    )
    select current_user::text,
           exists (select from task t where has_any_column_privilege(t.oid, 'insert')),
           exists (select from callable c where c.name = 'claim'),
           exists (select from task t where has_table_privilege(t.oid, 'select')),
           exists (select from callable c where c.name = 'cancel'),
           exists (select from callable c where c.name = 'doctor')
"""


def read_rights(connection: Connection) -> Rights:
    """Return what the connected role may do. This needs no right on the schema."""
    [row] = connection.execute(_RIGHTS).fetchall()
    return Rights(*row)


def _find_misfit(context: CheckContext) -> Iterator[Finding]:
    """Find what keeps this package from working with the schema."""
    try:
        schema.require(context.connection)
    except SchemaUnreleased as error:
        yield Finding(ERROR, "schema_unreleased", "the schema", error.message, error.hint or "")
    except SchemaMissing as error:
        database = context.connection.info.dbname
        name = "schema_old" if "contract version" in error.message else "schema_missing"
        sentence = (
            error.message if name == "schema_old"
            else f"the database {database} lacks the schema peers or a part of it"
        )  # fmt: skip
        yield Finding(
            ERROR, name, "the schema", sentence, "`peers migrate` as the owner of the schema"
        )
    except SchemaNewer as error:
        yield Finding(ERROR, "schema_newer", "the schema", error.message, error.hint or "")
    except NotPermitted:
        pass  # the check `missing_privilege` says so


def _find_missing_privilege(context: CheckContext) -> Iterator[Finding]:
    found = context.connection.execute(
        "select from pg_namespace where nspname = 'peers'"
    ).fetchall()
    if not found:
        return
    rights = read_rights(context.connection)
    if not (rights.submits or rights.works or rights.reads or rights.operates):
        role = '"' + rights.role.replace('"', '""') + '"'
        yield Finding(
            ERROR, "missing_privilege", f"role {rights.role}",
            f"the role {rights.role} may neither submit tasks, nor run a peer, nor read",
            f"as the owner of the schema: GRANT peers_worker TO {role}; for a peer, "
            "peers_submitter for an application, peers_reader or peers_operator for people",
        )  # fmt: skip


CHECKS: Final = (
    Check(
        "schema", "Does the schema fit this package?", _find_misfit,
        ("schema_missing", "schema_old", "schema_newer", "schema_unreleased"),
    ),
    Check(
        "missing_privilege", "May the connected role do anything?", _find_missing_privilege,
        ("missing_privilege",),
    ),
)  # fmt: skip
