"""Whatever fires first: other triggers, and verbs called by the statement that submits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.world import (
    Peer,
    advance,
    column,
    problems,
    promote,
    refusal,
    rows,
    run,
    state,
    submit,
    value,
)

if TYPE_CHECKING:
    from tests.support.server import Connection

# What an application does to the task $1 that it has just inserted, and the states of a task for
# now and for later after that; without one, it is as if nothing had been done.
ACTIONS = {
    "nothing": ("perform $1", {}),
    "an edge": (
        "perform app.wait_for('ready', $1, 'hold')",
        {"now": "blocked", "later": "blocked"},
    ),
    "two edges": (
        "perform app.wait_for('ready', $1, 'hold'); perform app.wait_for('ready', $1, 'run')",
        {"now": "blocked", "later": "blocked"},
    ),
    "an edge from what was cancelled": (
        "perform app.wait_for('cancelled', $1, 'hold')",
        {"now": "cancelled", "later": "cancelled"},
    ),
    "an edge that lets it run": ("perform app.wait_for('cancelled', $1, 'run')", {}),
    "cancel": ("perform peers.cancel($1)", {"now": "cancelled", "later": "cancelled"}),
    "change to later": (
        "perform peers.change($1, scheduled_at => now() + interval '2 h')",
        {"now": "scheduled"},
    ),
    "change to now": (
        "perform peers.change($1, scheduled_at => now())",
        {"later": "ready"},
    ),
    "change to now, and first": (
        "perform peers.change($1, scheduled_at => now() - interval '1 s', priority => 1)",
        {"later": "ready"},
    ),
    "change the priority": ("perform peers.change($1, priority => 7)", {}),
    "change twice": (
        "perform peers.change($1, scheduled_at => now() + interval '3 h', priority => 7);"
        " perform peers.change($1, scheduled_at => now(), priority => 100)",
        {"later": "ready"},
    ),
    "an edge, then cancel": (
        "perform app.wait_for('ready', $1, 'hold'); perform peers.cancel($1)",
        {"now": "cancelled", "later": "cancelled"},
    ),
    "change, then an edge": (
        "perform peers.change($1, scheduled_at => now());"
        " perform app.wait_for('ready', $1, 'hold')",
        {"now": "blocked", "later": "blocked"},
    ),
    "submit a child": ("perform peers.submit('child', depends_on => array[$1])", {}),
    "submit a child and cancel": (
        "perform peers.submit('child', depends_on => array[$1]); perform peers.cancel($1)",
        {"now": "cancelled", "later": "cancelled"},
    ),
}
ACT = (
    "create or replace function app.act(bigint) returns void language plpgsql"
    " as $$ begin {}; end $$"
)
APPLICATION = """
create schema app;
create function app.parent(wanted text) returns bigint language plpgsql as $$
declare
    made bigint := peers.submit('parent');
begin
    if wanted = 'cancelled' then
        perform peers.cancel(made);
    end if;
    return made;
end $$;
create function app.wait_for(wanted text, child bigint, policy text) returns void
language plpgsql as $$
begin
    insert into peers.dependency (parent_id, child_id, on_parent_failure)
    values (app.parent(wanted), child, policy::peers.parent_failure_policy);
end $$;
create function app.on_row() returns trigger language plpgsql as $$
begin
    if new.kind = 'a' then
        perform app.act(new.id);
    end if;
    return null;
end $$;
create function app.on_statement() returns trigger language plpgsql as $$
begin
    perform app.act(n.id) from fresh n where n.kind = 'a';
    return null;
end $$;
create table app.audit (id bigint, kind text);
create function app.on_row_audit() returns trigger language plpgsql as $$
begin
    insert into app.audit values (new.id, new.kind);
    return null;
end $$;
"""
ON_ROW = "create trigger {} after insert on peers.task for each row execute function app.on_row()"
ON_STATEMENT = (
    "create trigger {} after insert on peers.task referencing new table as fresh"
    " for each statement execute function app.on_statement()"
)
PLAIN = "insert into peers.task (kind, scheduled_at) values ('a', {}) returning id"
CALL = f"with made as ({PLAIN}) select made.id, app.act(made.id) from made"
WAYS = {
    "a row trigger": (ON_ROW.format("aaa"), PLAIN),
    "a row trigger of a later name": (ON_ROW.format("zzz"), PLAIN),
    "a statement trigger": (ON_STATEMENT.format("aaa"), PLAIN),
    "a statement trigger of a later name": (ON_STATEMENT.format("zzz"), PLAIN),
    "a trigger of a trigger's table": (
        "create trigger aaa after insert on peers.task for each row"
        " execute function app.on_row_audit();"
        " create trigger bbb after insert on app.audit for each row execute function app.on_row()",
        PLAIN,
    ),
    "a deferred trigger": (
        "create constraint trigger aaa after insert on peers.task deferrable initially deferred"
        " for each row execute function app.on_row()",
        PLAIN,
    ),
    "a call in the same statement": ("", CALL),
    "submit, and a row trigger": (
        ON_ROW.format("aaa"),
        "select peers.submit('a', scheduled_at => {}) as id",
    ),
    "a graph, and a row trigger": (
        ON_ROW.format("aaa"),
        "select task_id as id from peers.submit_graph(jsonb_build_array(jsonb_build_object("
        "'name', 'n', 'kind', 'a', 'scheduled_at', {})))",
    ),
}
COPY = "copy peers.task (kind, scheduled_at) from stdin"
WAYS["copy, and a row trigger"] = (ON_ROW.format("aaa"), COPY)
TIMES = {"now": "now()", "later": "now() + interval '1 h'"}


def submitted(db: Connection, submission: str, scheduled_at: str) -> int:
    """The id of a task of kind a that was just submitted in this way."""
    if submission != COPY:
        [made] = rows(db, submission.format(scheduled_at))
        return int(made["id"])
    moment = value(db, f"select {scheduled_at}")
    with db.cursor().copy(submission) as copy:
        copy.write_row(("a", moment))
    return int(value(db, "select max(id) from peers.task where kind = 'a'"))


def parents_have_ended(db: Connection, *task_ids: int) -> bool:
    """Whether nothing that these tasks wait for is unfinished."""
    waiting = (
        "select count(*) from peers.dependency d join peers.task p on p.id = d.parent_id"
        " where d.child_id = any (%s) and not d.waived and p.state <> 'completed'"
    )
    return bool(value(db, waiting, [*task_ids]) == 0)


def run_to_the_end(db: Connection, peer: Peer) -> set[int]:
    """Completes everything, later tasks included; asserts that nobody comes before a parent."""
    done: set[int] = set()
    for hours in (0, 4):
        if hours:
            advance(db, f"{hours} h")
            peer = Peer.join(db, "a", "parent", "child")
            promote(db)
        while claims := peer.claim():
            found = [claim.task_id for claim in claims]
            assert len({*found}) == len(found)
            assert not {*found} & done, "claimed twice"
            assert parents_have_ended(db, *found), "a child came before its parent"
            assert peer.complete(*claims) == {}
            done |= {*found}
    return done


@pytest.mark.parametrize("way", WAYS)
def test_no_trigger_assumes_that_it_is_first(db: Connection, way: str) -> None:
    """What happens to a task before its submission's trigger fires holds after it as well."""
    setup, submission = WAYS[way]
    run(db, APPLICATION)
    for action, (body, states) in ACTIONS.items():
        run(db, ACT.format(body))
        if action == "nothing" and setup:
            run(db, setup)
        for when, scheduled_at in TIMES.items():
            case = f"{action}, {when}"
            task_id = submitted(db, submission, scheduled_at)
            expected = states.get(when, {"now": "ready", "later": "scheduled"}[when])
            assert state(db, task_id) == expected, case
            assert problems(db) == [], case
            done = run_to_the_end(db, Peer.join(db, "a", "parent", "child"))
            assert (task_id in done) is (expected != "cancelled"), case
            unfinished = "select id from peers.task where finished_at is null"
            assert column(db, unfinished) == [], case
            assert problems(db) == [], case
            run(db, "delete from peers.clock")


NEW_EDGE = (
    "insert into peers.dependency (parent_id, child_id, on_parent_failure)"
    " values ({parent}, {child}, '{policy}') returning parent_id"
)
EDGE_WAYS = {
    "a call in the same statement": (
        "",
        f"with e as ({NEW_EDGE}) select app.act(parent_id) from e",
    ),
    "a row trigger": (
        "create trigger aaa after insert on peers.dependency for each row"
        " execute function app.on_edge()",
        NEW_EDGE,
    ),
    "a row trigger of a later name": (
        "create trigger zzz after insert on peers.dependency for each row"
        " execute function app.on_edge()",
        NEW_EDGE,
    ),
    "a call before it in the same statement": (
        "",
        f"with ended as (select app.act({{parent}})), e as ({NEW_EDGE})"
        " select parent_id from e, ended",
    ),
}
ON_EDGE = """
create function app.on_edge() returns trigger language plpgsql as $$
begin
    perform app.act(new.parent_id);
    return null;
end $$;
create function app.complete(task_id bigint) returns void language plpgsql as $$
declare
    me uuid := peers.join('h', 1, '{"default": 1}', '[{"kind": "parent"}]', '1 d', 1);
begin
    perform peers.change(task_id, priority => -9);
    perform peers.complete(me, array[c.token], c.task_ids, null)
    from peers.claim(me, 'default', 1) c;
end $$;
"""
ENDS = {"cancel": "perform peers.cancel($1)", "complete": "perform app.complete($1)"}


@pytest.mark.parametrize("way", EDGE_WAYS)
def test_an_edge_that_was_not_counted_up_is_not_counted_down(db: Connection, way: str) -> None:
    """Ending a parent in the statement that adds its edge is refused, or counts right."""
    setup, edge = EDGE_WAYS[way]
    run(db, APPLICATION + ON_EDGE)
    run(db, ACT.format("null"))
    run(db, setup or "select 1")
    for how, body in ENDS.items():
        for policy in ("hold", "cancel", "run"):
            for others in (0, 1, 2):
                case = f"{how}, {policy}, {others} other parents"
                run(db, ACT.format("null"))
                parent, child, *more = (submit(db, "parent") for _ in range(2 + others))
                for each in more:
                    run(db, NEW_EDGE.format(parent=each, child=child, policy="hold"))
                run(db, ACT.format(body))
                statement = edge.format(parent=parent, child=child, policy=policy)
                sqlstate, said = refusal(db, statement)
                assert sqlstate in ("", "PE002"), f"{case}: {said}"
                assert problems(db) == [], case
                run_to_the_end(db, Peer.join(db, "a", "parent", "child"))
                assert problems(db) == [], case
                run(db, "delete from peers.clock")
