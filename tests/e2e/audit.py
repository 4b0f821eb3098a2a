"""Nothing lost, nothing twice, no child early: figures from the database and from the outside
ledger.

The database's side is a journal that a trigger of the tests writes, one row for each change of a
task's state, token or end. The scheduler knows nothing of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e import ledger
from tests.e2e.ledger import Entry
from tests.support.server import Connection
from tests.support.world import column, rows

JOURNAL: Final = """
create schema if not exists journal;
create table journal.entry (
    seq bigint generated always as identity primary key,
    task_id bigint not null,
    state text not null,
    token text
);
create index on journal.entry (task_id);
create function journal.note() returns trigger
    language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' or (new.state, new.token, new.finished_at) is distinct from
                           (old.state, old.token, old.finished_at) then
        insert into journal.entry (task_id, state, token) values (new.id, new.state, new.token);
    end if;
    return null;
end
$$;
create trigger journal after insert or update on peers.task
    for each row execute function journal.note();
"""

SILENT_KIND: Final = "returns"
"""The only handler whose result does not hold the token that it ran under."""

ISOLATED_KINDS: Final = ("hog", "damaged.%")
"""Handlers that may be run again under their lease: in isolation, to find the one that crashed."""

# Something came of an attempt that was not given back: it completed, or left a failure.
_OUTCOMES_TWICE: Final = """
    select task_id from (
        select task_id, token from journal.entry where state = 'completed'
        union all
        select task_id, token::text from peers.failure
    ) o group by task_id, token having count(*) > 1
    union
    select task_id from journal.entry where state = 'completed' group by task_id having count(*) > 1
"""
_EARLY: Final = """
    select d.child_id
    from peers.dependency d
    cross join lateral (
        select min(seq) as seq from journal.entry where task_id = d.child_id and state = 'running'
    ) started
    where started.seq is not null and not exists (
        select from journal.entry p
        where p.task_id = d.parent_id and p.seq < started.seq
          and (p.state = 'completed'
               or d.on_parent_failure = 'run' and p.state in ('dead', 'cancelled')))
"""


@dataclass(frozen=True)
class Audit:
    """The ids of tasks with which something is wrong; all are empty when the promise is kept."""

    tasks: int
    lost: list[int]
    """Never came to an end; or completed, and no handler finished under the token it completed
    with.
    """
    twice: list[int]
    """More than one outcome was recorded under a lease; or a lease was run more than once."""
    early: list[int]
    """Started before a parent had ended."""
    foreign: list[int]
    """The recorded result is not that of the lease; or a handler ran without a lease."""

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.twice or self.early or self.foreign)

    def __str__(self) -> str:
        return (
            f"tasks={self.tasks} lost={len(self.lost)} twice={len(self.twice)}"
            f" early={len(self.early)} foreign={len(self.foreign)}"
        )


def audit(db: Connection, path: Path, *, ended: bool = True) -> Audit:
    """Compares the two; with `ended`, every task must have come to an end."""
    entries = ledger.read(path)
    completed = {
        (row["id"], str(row["token"])): row
        for row in rows(
            db,
            "select id, token, kind, result ->> 'token' as result_token from peers.task"
            " where state = 'completed'",
        )
    }
    started = Counter(entry.lease for entry in entries if entry.event == "start")
    finished = {entry.lease for entry in entries if entry.event == "end"}
    leased = {
        (row["task_id"], row["token"])
        for row in rows(db, "select task_id, token from journal.entry where state = 'running'")
    }
    apart = set(
        column(db, "select id from peers.task where kind like any (%s)", list(ISOLATED_KINDS))
    )
    unended = column(
        db, "select id from peers.task where state not in ('completed', 'dead', 'cancelled')"
    )
    return Audit(
        tasks=len(column(db, "select distinct task_id from journal.entry")),
        lost=sorted(
            {task_id for task_id, token in completed if (task_id, token) not in finished}
            | set(column(db, "select task_id from journal.entry except select id from peers.task"))
            | (set(unended) if ended else set())
        ),
        twice=sorted(
            set(column(db, _OUTCOMES_TWICE))
            | {lease[0] for lease, times in started.items() if times > 1 and lease[0] not in apart}
        ),
        early=sorted(set(column(db, _EARLY)) | _early_by_ledger(db, entries, set(completed))),
        foreign=sorted(
            {
                lease[0]
                for lease, row in completed.items()
                if row["kind"] != SILENT_KIND and row["result_token"] != lease[1]
            }
            | {lease[0] for lease in started if lease not in leased}
        ),
    )


def _early_by_ledger(
    db: Connection, entries: list[Entry], completed: set[tuple[int, str]]
) -> set[int]:
    """Children whose first start stands before the end of a parent's completing run."""
    first: dict[int, int] = {}
    end: dict[int, int] = {}
    for entry in entries:
        if entry.event == "start":
            first.setdefault(entry.task_id, entry.place)
        elif entry.event == "end" and entry.lease in completed:
            end[entry.task_id] = entry.place
    edges = rows(
        db,
        "select parent_id, child_id from peers.dependency d join peers.task p on p.id = d.parent_id"
        " where p.state = 'completed' and not d.waived",
    )
    never = len(entries)
    return {
        edge["child_id"]
        for edge in edges
        if edge["child_id"] in first and first[edge["child_id"]] < end.get(edge["parent_id"], never)
    }
