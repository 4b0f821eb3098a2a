"""Submissions with unique keys, for the SQL tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.support.world import row, rows

if TYPE_CHECKING:
    from tests.support.server import Connection

_TYPES: Final = {
    "args": "jsonb", "depends_on": "bigint[]", "scheduled_at": "timestamptz", "wait": "interval",
    "timeout": "interval", "metadata": "jsonb", "priority": "integer", "max_wait": "interval",
    "max_attempts": "integer", "graph_id": "bigint",
}  # fmt: skip


class Answer(NamedTuple):
    """What peers.submit_unique returns."""

    id: int
    is_new: bool
    replaced: bool


def submit_unique(
    db: Connection, unique_key: str | None = "k", kind: str = "a", **options: Any
) -> Answer:
    """Call peers.submit_unique with named arguments."""
    if "args" in options:
        options["args"] = json.dumps(options["args"])
    options["unique_key"] = unique_key
    named = "".join(f", {name} => %s::{_TYPES.get(name, 'text')}" for name in options)
    query = f"select * from peers.submit_unique(%s{named})"
    return Answer(**row(db, query, kind, *options.values()))


def submit_batch(
    db: Connection, keys: list[str | None], kind: str = "a", **options: Any
) -> list[Answer]:
    """Call peers.submit_many_unique; the args of each task are its place."""
    args = json.dumps([{"n": place} for place in range(len(keys))])
    named = "".join(f", {name} => %s::{_TYPES.get(name, 'text')}" for name in options)
    query = f"select * from peers.submit_many_unique(%s, %s::json, %s::text[]{named})"
    return [Answer(**each) for each in rows(db, query, kind, args, keys, *options.values())]


def debounce(db: Connection, unique_key: str = "k", **options: Any) -> Answer:
    """Submit with on_duplicate => debounce and a wait of 5 s, or another one."""
    return submit_unique(db, unique_key, on_duplicate="debounce", **{"wait": "5 s", **options})


def replace(db: Connection, unique_key: str = "k", **options: Any) -> Answer:
    """Submit with on_duplicate => replace."""
    return submit_unique(db, unique_key, on_duplicate="replace", **options)


def holder(db: Connection, unique_key: str = "k") -> int | None:
    """Return the task in the row of a key, if it has one."""
    found = rows(db, "select task_id from peers.unique_key where key = %s", unique_key)
    return found[0]["task_id"] if found else None
