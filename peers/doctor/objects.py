"""Check that functions, triggers and indexes are those of this package.

The SQL files of the package are the list. Their statements have one form each, which the SQL style
enforces.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from peers.database import schema
from peers.doctor.check import Check
from peers.doctor.findings import ERROR, WARNING, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from peers.doctor.check import CheckContext

_FUNCTION: Final = re.compile(
    r"^create or replace function peers\.(?P<name>\w+)\("
    r"(?:(?!^create ).)*?\bas \$\$(?P<body>.*?)\$\$;",
    re.MULTILINE | re.DOTALL,
)
_TRIGGER: Final = re.compile(
    r"^ *create (?:or replace |constraint )*trigger (?P<name>\w+)\s"
    r"[^;]*?\son peers\.(?P<table>\w+)",
    re.MULTILINE,
)
_INDEX: Final = re.compile(
    r"^create (?:unique )?index if not exists (?P<name>\w+)[^;]*;", re.MULTILINE
)
_NAMED: Final = 8
_MIGRATE: Final = "`peers migrate` as the owner of the schema"


def _texts() -> Iterator[tuple[str, str]]:
    for step in schema.steps():
        yield step.file.name, step.file.read_text()


def shipped_functions() -> dict[str, set[str]]:
    """Return the bodies of the functions of each name."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, text in _texts():
        for match in _FUNCTION.finditer(text):
            found[match["name"]].add(match["body"])
    return dict(found)


def shipped_triggers() -> set[tuple[str, str]]:
    """Return the table and the name of each trigger."""
    return {
        (match["table"], match["name"]) for _, text in _texts() for match in _TRIGGER.finditer(text)
    }


def shipped_indexes() -> dict[str, str]:
    """Return the statement that creates each index."""
    return {
        match["name"]: " ".join(match[0].split())
        for _, text in _texts()
        for match in _INDEX.finditer(text)
    }


def _find_function_differs(context: CheckContext) -> Iterator[Finding]:
    theirs: dict[str, set[str]] = defaultdict(set)
    for name, body in context.connection.execute(
        "select p.proname::text, p.prosrc from pg_proc p join pg_namespace n"
        " on n.oid = p.pronamespace where n.nspname = 'peers'"
    ):
        theirs[name].add(body)
    if not theirs:
        return
    ours = shipped_functions()
    missing = sorted(ours.keys() - theirs.keys())
    changed = sorted(name for name in ours.keys() & theirs.keys() if ours[name] - theirs[name])
    if missing:
        yield Finding(
            ERROR, "function_missing", "the schema",
            f"the database lacks functions of this package: {_names(missing)}", _MIGRATE,
        )  # fmt: skip
    if changed:
        yield Finding(
            WARNING, "function_differs", "the schema",
            "functions in the database are not those of this package, so they are of another "
            f"version or were changed by hand: {_names(changed)}",
            f"if this package is the newer one: {_MIGRATE}; if not, install the newer one here",
        )  # fmt: skip


def _find_trigger_missing(context: CheckContext) -> Iterator[Finding]:
    theirs = set(
        context.connection.execute(
            "select c.relname::text, t.tgname::text from pg_trigger t"
            " join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = 'peers'"
        )
    )
    missing = sorted(f"peers.{table}.{name}" for table, name in shipped_triggers() - theirs)
    if theirs and missing:
        yield Finding(
            ERROR, "trigger_missing", "the schema",
            f"triggers are missing: {_names(missing)}. What they keep consistent is no longer kept",
            f"{_MIGRATE}; then `peers check --repair`",
        )  # fmt: skip


def _find_index_missing(context: CheckContext) -> Iterator[Finding]:
    theirs = {
        name
        for (name,) in context.connection.execute(
            "select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = 'peers' and c.relkind = 'i'"
        )
    }
    if not theirs:
        return
    for name, statement in shipped_indexes().items():
        if name not in theirs:
            yield Finding(
                WARNING, "index_missing", f"peers.{name}",
                f"the index {name} is missing: queries that need it read whole tables",
                statement.replace(" index ", " index concurrently ", 1),
            )  # fmt: skip


def _names(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


CHECKS: Final = (
    Check(
        "functions", "Are the functions in the database those of this package?",
        _find_function_differs, ("function_missing", "function_differs"),
    ),
    Check(
        "trigger_missing", "Are all triggers there?", _find_trigger_missing, ("trigger_missing",)
    ),
    Check("index_missing", "Are all indexes there?", _find_index_missing, ("index_missing",)),
)  # fmt: skip
