"""A log of every transition of every task, kept by a trigger that only tests install.

The table of tasks alone cannot show that nothing was lost and nothing ran twice.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from tests.support.world import rows, run

if TYPE_CHECKING:
    from typing import Any

    from tests.support.server import Connection

Outcome: TypeAlias = tuple[int, UUID, UUID]
"""A task, the token under which it was reported, and the peer that reported it."""

_INSTALL = """
create schema journal;
create table journal.transition (
    step bigint generated always as identity primary key,
    task_id bigint not null,
    before peers.task_state,
    after peers.task_state not null,
    token uuid,
    attempt smallint not null,
    at timestamptz not null default clock_timestamp()
);
create function journal.note() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into journal.transition (task_id, before, after, token, attempt)
    values (new.id, case when tg_op = 'UPDATE' then old.state end, new.state, new.token,
            new.attempt);
    return null;
end
$$;
create table journal.lease (task_id bigint not null, token uuid not null, peer_id uuid not null);
create function journal.note_lease() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into journal.lease
    select i.task_id, new.token, new.peer_id from unnest(new.task_ids) i(task_id);
    return null;
end
$$;
create trigger journal_of_leases after insert on peers.lease
    for each row execute function journal.note_lease();
create trigger aa_journal_of_inserts after insert on peers.task
    for each row execute function journal.note();
create trigger aa_journal_of_updates after update on peers.task
    for each row when (old.state is distinct from new.state or old.token is distinct from new.token)
    execute function journal.note();
"""


def install(db: Connection) -> None:
    """Start the journal of a database."""
    run(db, _INSTALL)


def transitions(db: Connection) -> list[dict[str, Any]]:
    """Return all transitions (task_id, before, after, token, attempt), in order."""
    return rows(db, "select * from journal.transition order by step")


def violations(db: Connection, ledger: list[Outcome]) -> list[str]:
    """Return the violations of the promises that the journal and the ledger show.

    The ledger has every outcome that the database reported to a peer as recorded.
    """
    found = [_sentence(each) for each in rows(db, _VIOLATIONS)]
    query = "select task_id, token from journal.transition where after = 'completed'"
    recorded = {(each["task_id"], each["token"]) for each in rows(db, query)}
    leased = {tuple(each.values()) for each in rows(db, "select * from journal.lease")}
    reported = Counter((task, token) for task, token, _ in ledger)
    found += [
        f"{outcome} was reported by a peer without the lease" for outcome in {*ledger} - leased
    ]
    found += [f"{pair} was recorded twice" for pair, times in reported.items() if times > 1]
    found += [f"{pair} was reported, but not recorded" for pair in reported.keys() - recorded]
    found += [f"{pair} was recorded, but not reported" for pair in recorded - reported.keys()]
    return found


def _sentence(violation: dict[str, Any]) -> str:
    return f"task {violation['task_id']} {violation['what']}"


_VIOLATIONS = """
with allowed(before, after) as (values
    ('blocked', 'ready'), ('blocked', 'scheduled'), ('blocked', 'cancelled'),
    ('scheduled', 'ready'), ('scheduled', 'blocked'), ('scheduled', 'cancelled'),
    ('ready', 'blocked'), ('ready', 'scheduled'), ('ready', 'running'), ('ready', 'cancelled'),
    ('running', 'completed'), ('running', 'scheduled'), ('running', 'ready'), ('running', 'dead'),
    ('running', 'cancelled'), ('dead', 'ready'), ('dead', 'cancelled')
)
select t.task_id, 'went from ' || t.before || ' to ' || t.after as what
from journal.transition t
where t.before is not null
  and not exists (select from allowed a where (a.before, a.after) = (t.before::text, t.after::text))
union all
select t.task_id, 'was leased twice under one token' from journal.transition t
where t.after = 'running' group by t.task_id, t.token having count(*) > 1
union all
select t.task_id, 'was completed ' || count(*) || ' times' from journal.transition t
where t.after = 'completed' group by t.task_id having count(*) > 1
union all
select t.task_id, 'left running ' || count(*) || ' times under one token' from journal.transition t
where t.before = 'running' group by t.task_id, t.token having count(*) > 1
union all
select start.task_id, 'started before its parent ' || d.parent_id
from journal.transition start
join peers.dependency d on d.child_id = start.task_id
where start.after = 'running' and not exists (
    select from journal.transition done
    where done.task_id = d.parent_id and done.step < start.step
      and (done.after = 'completed' or d.waived and done.after in ('dead', 'cancelled'))
)
union all
select t.id, 'is ' || t.state || ' but its last transition is to ' || last.after
from peers.task t
cross join lateral (
    select j.after from journal.transition j where j.task_id = t.id order by j.step desc limit 1
) last
where last.after <> t.state
"""
