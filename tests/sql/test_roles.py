"""Roles: a submitter forges nothing, a worker has verbs only, an operator acts, a reader looks."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.world import Peer, column, refusal, rows, run, state, submit, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.server import Connection

VERBS = {
    "join": "select peers.join('h', 1, '{\"default\": 1}', '[]', '30 s', peers.contract_version())",
    "heartbeat": "select * from peers.heartbeat(gen_random_uuid())",
    "complete": "select * from peers.complete(gen_random_uuid(), '{}', '{}', null)",
    "fail": "select * from peers.fail(gen_random_uuid(), '[]')",
    "release": "select peers.release(gen_random_uuid(), '{}', '{}')",
    "reconcile": "select peers.reconcile(gen_random_uuid(), '{}')",
    "reclaim": "select * from peers.reclaim(gen_random_uuid())",
    "next_reclaim": "select peers.next_reclaim(gen_random_uuid())",
    "siblings": "select * from peers.siblings(gen_random_uuid())",
    "declare_lost": "select peers.declare_lost(gen_random_uuid(), '{}')",
    "leave": "select peers.leave(gen_random_uuid())",
    "promote": "select peers.promote()",
    "next_due": "select peers.next_due()",
    "progress": "select peers.progress(gen_random_uuid(), 1, gen_random_uuid(), 1, 2)",
    "parent_results": "select * from peers.parent_results(1)",
    "unrunnable": "select * from peers.unrunnable()",
    "start_cooldown": "select peers.start_cooldown('a', '1 s')",
    "cooldown_left": "select peers.cooldown_left('a')",
    "prune": "select * from peers.prune('1 day')",
    "prune_dead": "select * from peers.prune_dead('1 day')",
    "apply_retention": "select * from peers.apply_retention('1 day', '1 day')",
    "retry_dead": "select * from peers.retry_dead('{\"ids\": []}')",
    "discard_dead": "select * from peers.discard_dead('{\"ids\": []}')",
    "cancel_tasks": "select * from peers.cancel_tasks('{\"ids\": []}')",
    "innermost_frame": "select peers.innermost_frame('')",
    "queue_demand": "select * from peers.queue_demand()",
    "cancel": "select peers.cancel(1)",
    "change": "select peers.change(1, priority => 5)",
    "pause": "select peers.pause('q')",
    "resume": "select peers.resume('q')",
    "cancel_graph": "select peers.cancel_graph(1)",
    "pause_graph": "select peers.pause_graph(1)",
    "resume_graph": "select peers.resume_graph(1)",
    "retry_graph": "select peers.retry_graph(1)",
    "end_cooldown": "select peers.end_cooldown('a')",
    "check": "select * from peers.check()",
    "explain": "select peers.explain(1)",
    "submit": "select peers.submit('a')",
    "submit_graph": "select * from peers.submit_graph('[]')",
    "declare_limits": "select * from peers.declare_limits(gen_random_uuid(), '[]')",
    "shut_limit_of_task": "select peers.shut_limit_of_task(1, '1 s')",
    "set_limit": "select peers.set_limit('l', '{}')",
    "remove_limit": "select peers.remove_limit('l')",
    "shut_limit": "select peers.shut_limit('l')",
    "open_limit": "select peers.open_limit('l')",
    "limit_keys": "select * from peers.limit_keys('l')",
    "add_schedule": 'select peers.add_schedule(\'{"name": "s", "kind": "a", "cron": "@daily"}\')',
    "due_schedules": "select peers.due_schedules()",
    "fire_schedules": "select peers.fire_schedules('[]')",
    "run_backfills": "select peers.run_backfills('[]')",
    "declare_schedules": "select peers.declare_schedules(gen_random_uuid(), '[]')",
    "task_due_at": "select peers.task_due_at(1)",
    "prune_schedule_runs": "select peers.prune_schedule_runs('1 day')",
    "pause_schedule": "select peers.pause_schedule('s')",
    "resume_schedule": "select peers.resume_schedule('s')",
    "run_schedule": "select peers.run_schedule('s')",
    "remove_schedule": "select peers.remove_schedule('s')",
    "backfill_schedule": "select peers.backfill_schedule('s', now(), now())",
    "cancel_backfill": "select peers.cancel_backfill(1)",
    "explain_schedule": "select peers.explain_schedule('s')",
    "submit_unique": "select * from peers.submit_unique('a', unique_key => 'k')",
    "submit_many_unique": "select * from peers.submit_many_unique('a', '[{}]', array['k'])",
    "record_metrics": "select peers.record_metrics(gen_random_uuid(), '[]')",
    "gauges": "select * from peers.gauges()",
    "counters": "select * from peers.counters()",
    "throughput": "select * from peers.throughput()",
    "histogram": "select * from peers.histogram('run')",
    "store_logs": "select peers.store_logs(gen_random_uuid(), '{}', '{}', '{}', '{}', '{}', '{}')",
    "follow_log": "select peers.follow_log(1)",
    "doctor": "select * from peers.doctor()",
    "contract_version": "select peers.contract_version()",
    "now": "select peers.now()",
    "kind_defaults": "select peers.kind_defaults('a')",
}
EVERYBODY = {"contract_version", "now", "kind_defaults"}
METRICS = {"gauges", "counters", "throughput", "histogram"}
SUBMITTING = {"submit", "submit_graph", "submit_unique", "submit_many_unique", "add_schedule"}
PEER = {
    "join", "heartbeat", "complete", "fail", "release", "reconcile", "reclaim", "leave",
    "promote", "next_due", "progress", "parent_results", "unrunnable", "apply_retention",
    "next_reclaim", "siblings", "declare_lost",
    "start_cooldown", "cooldown_left", "declare_limits", "shut_limit_of_task",
    "due_schedules", "fire_schedules", "run_backfills", "declare_schedules",
    "task_due_at", "prune_schedule_runs", "record_metrics", "store_logs", "doctor",
}  # fmt: skip
OPERATING = {
    "cancel", "change", "pause", "resume", "prune", "prune_dead", "check", "retry_dead",
    "discard_dead", "cancel_tasks", "innermost_frame", "queue_demand", "explain", "unrunnable",
    "parent_results", "start_cooldown", "cooldown_left", "end_cooldown",
    "cancel_graph", "pause_graph", "resume_graph", "retry_graph",
    "set_limit", "remove_limit", "shut_limit", "open_limit", "limit_keys",
    "pause_schedule", "resume_schedule", "run_schedule", "remove_schedule", "backfill_schedule",
    "cancel_backfill",
    "explain_schedule", "task_due_at", "prune_schedule_runs", "follow_log", "doctor",
}  # fmt: skip
ALLOWED = {
    "peers_submitter": EVERYBODY | SUBMITTING,
    "peers_worker": EVERYBODY | SUBMITTING | PEER | METRICS,
    "peers_operator": EVERYBODY | SUBMITTING | OPERATING | METRICS,
    "peers_reader": EVERYBODY
    | METRICS
    | {
        "doctor",
        "explain",
        "explain_schedule",
        "follow_log",
        "innermost_frame",
        "limit_keys",
        "queue_demand",
        "unrunnable",
    },
}
TABLES = (
    "select format('%I.%I', schemaname, tablename) as t from pg_tables where schemaname = 'peers'"
)


HELPERS_OF_CHECKS = (
    "_duration_text", "_end_session_text", "_session_text", "_setting_interval",
    "_starting_settings", "_vacuum_triggers",
)  # fmt: skip


@pytest.fixture(params=ALLOWED)
def role(request: pytest.FixtureRequest, db: Connection) -> str:
    """Each role in turn; there is a task 1 for it."""
    submit(db)
    name: str = request.param
    run(db, f"set role {name}")
    return name


def test_each_role_calls_its_verbs_and_no_others(db: Connection, role: str) -> None:
    """What is granted works all the way down, what is not is refused at the door."""
    for verb, call in VERBS.items():
        sqlstate, words = refusal(db, call)
        if verb in ALLOWED[role]:
            assert sqlstate != "42501", f"{role} cannot call {verb}: {words}"
        else:
            assert sqlstate == "42501", f"{role} may call {verb}"
            assert f"function {verb}" in words


def test_helpers_are_nobodys(db: Connection, role: str) -> None:
    """The functions named _like_this cannot be called by any role.

    Except the checks of peers.doctor, which runs with the rights of its caller: a member of
    pg_monitor sees more than the owner.
    """
    helpers = (
        "select p.oid::regprocedure::text from pg_proc p"
        " where pronamespace = 'peers'::regnamespace and proname like '\\_%%'"
        " and has_function_privilege(%s, p.oid, 'execute')"
        " and proname not like '\\_doctor\\_%%' and not proname = any (%s)"
    )
    assert column(db, helpers, role, list(HELPERS_OF_CHECKS)) == []


def test_no_role_writes_a_table_by_hand(db: Connection, role: str) -> None:
    """Beyond a submitter's inserts, verbs change all but limits and schedules."""
    run(db, "reset role")
    for table in column(db, TABLES):
        for right in ("update", "delete", "truncate", "insert", "references", "trigger"):
            allowed = value(db, "select has_table_privilege(%s, %s, %s)", role, table, right)
            changes_limits = role == "peers_operator" and table == 'peers."limit"'
            may = changes_limits and right in ("update", "delete", "insert")
            # schedules: single columns may be inserted and updated
            may |= (role, table, right) == ("peers_operator", "peers.schedule", "delete")
            assert allowed == may, f"{role} may {right} {table}"


def test_a_submitter_submits_whole_graphs(db: Connection, peer: Peer) -> None:
    """INSERT, COPY, submit, submit_graph and edges work; the triggers need no rights of its own."""
    run(db, "set role peers_submitter")
    first = value(db, "insert into peers.task (kind) values ('a') returning id")
    second = submit(db, depends_on=[first], idempotency_key="k")
    assert submit(db, idempotency_key="k") == second
    assert len(value(db, "select peers.submit_many('x', '[{}, {}]')")) == 2
    with db.cursor().copy("copy peers.task (kind, args) from stdin") as copy:
        copy.write_row(("a", "{}"))
    third = value(db, "insert into peers.task (kind) values ('a') returning id")
    run(db, "insert into peers.dependency (parent_id, child_id) values (%s, %s)", second, third)
    run(db, """select * from peers.submit_graph('[{"name": "x", "kind": "a"}]')""")
    assert value(db, "select state from peers.task where id = %s", second) == "blocked"
    run(db, "reset role")
    assert len(peer.claim()) == 3
    assert state(db, third) == "blocked"


def test_a_submitter_reads_nothing_of_others(db: Connection) -> None:
    """The state may be asked for; what is in a task, and under which key, may not."""
    submit(db, args={"secret": 1})
    run(db, "set role peers_submitter")
    assert rows(db, "select id, state from peers.task") == [{"id": 1, "state": "ready"}]
    hidden_ones = ("args", "result", "metadata", "kind", "submitter", "token", "idempotency_key")
    for hidden in hidden_ones:
        for statement in (
            f"select {hidden} from peers.task",
            f"insert into peers.task (kind) values ('a') returning {hidden}",
            f"update peers.task set {hidden} = null",
        ):
            assert refusal(db, statement)[0] == "42501", statement


def test_a_worker_reads_no_table(db: Connection) -> None:
    """A worker gets tasks from claim, and from nowhere else."""
    for relation in [*column(db, TABLES), "peers.dead_letter", "peers.running"]:
        assert not value(db, "select has_table_privilege('peers_worker', %s, 'select')", relation)


def test_a_worker_can_do_a_peers_whole_job(db: Connection) -> None:
    """Join, claim, complete, fail, leave: with verbs alone."""
    submit(db)
    submit(db, args={"n": 2})
    run(db, "set role peers_worker")
    peer = Peer.join(db)
    first, second = peer.claim()
    assert (second.args, peer.complete(first), peer.fail(second)) == ({"n": 2}, {}, {})
    assert peer.heartbeat()["alive"]
    peer.leave()


@pytest.mark.parametrize("role_name", ["peers_operator", "peers_reader"])
def test_operators_and_readers_see_everything(db: Connection, role_name: str) -> None:
    """Every table and view can be read; what handlers do at the moment, only by operators."""
    run(db, f"set role {role_name}")
    relations = column(
        db,
        "select oid::regclass::text from pg_class"
        " where relnamespace = 'peers'::regnamespace and relkind in ('r', 'v')",
    )
    assert len(relations) > 10
    if role_name == "peers_reader":
        relations.remove("peers.peek")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(db, "select * from peers.peek")
    for relation in relations:
        run(db, f"select * from {relation}")


def test_public_has_nothing(db: Connection) -> None:
    """A role that was granted nothing cannot even look into the schema."""
    assert not value(
        db,
        "select exists (select from pg_namespace, aclexplode(nspacl) a"
        " where nspname = 'peers' and a.grantee = 0)",
    )
    assert (
        column(
            db,
            "select p.oid::regprocedure::text from pg_proc p"
            " where pronamespace = 'peers'::regnamespace"
            " and (proacl is null"
            " or exists (select from aclexplode(proacl) a where a.grantee = 0))",
        )
        == []
    )
    assert (
        column(
            db,
            "select c.oid::regclass::text from pg_class c, aclexplode(relacl) a"
            " where relnamespace = 'peers'::regnamespace and a.grantee = 0",
        )
        == []
    )


def test_a_submitter_adds_tasks_to_graphs_of_its_own(db: Connection) -> None:
    """A graph of another role refuses them, whatever the way; its key too. A member may."""
    alice, bob = (f"peers_test_{secrets.token_hex(4)}_{name}" for name in ("alice", "bob"))
    run(db, f"create role {alice} login; grant peers_submitter to {alice}")
    run(db, f"create role {bob} login; grant peers_submitter to {bob}")
    try:
        run(db, f"set session authorization {alice}")
        mine = value(db, "insert into peers.graph (name) values ('mine') returning id")
        keyed = value(db, SUBMIT_UNDER_KEY)
        assert submit(db, graph_id=mine)
        run(db, f"set session authorization {bob}")
        for statement in (
            f"insert into peers.task (kind, graph_id) values ('a', {mine})",
            f"select peers.submit('a', graph_id => {mine})",
        ):
            sqlstate, words = refusal(db, statement)
            assert sqlstate == "PE005"
            assert f"graph {mine} belongs to another role" in words
        sqlstate, words = refusal(db, SUBMIT_UNDER_KEY)
        assert (sqlstate, f"of graph {keyed} belongs to another role" in words) == ("PE009", True)
        assert refusal(db, "insert into peers.graph (name, paused_at) values ('a', now())")[0] \
            == "42501"  # fmt: skip
        run(db, "reset session authorization")
        run(db, f"grant {alice} to {bob}")
        run(db, f"set session authorization {bob}")
        assert submit(db, graph_id=mine)
    finally:
        run(db, "reset session authorization")
        run(db, f"drop owned by {alice}, {bob}; drop role {alice}, {bob}")


SUBMIT_UNDER_KEY = """select graph_id from peers.submit_graph('[{"name": "x", "kind": "a"}]',
    idempotency_key => 'k')"""
EDGE = "insert into peers.dependency (parent_id, child_id) values (%s, %s)"


@pytest.fixture
def two_submitters(db: Connection, connect: Callable[[], Connection]) -> Iterator[list[Connection]]:
    """Sessions of two applications, each under a role of its own that may submit."""
    names = [f"peers_test_{secrets.token_hex(4)}_{which}" for which in ("one", "two")]
    sessions = []
    for name in names:
        run(db, f"create role {name} in role peers_submitter")
        sessions.append(connect())
        run(sessions[-1], f"set session authorization {name}")
    yield sessions
    for session in sessions:
        session.close()
    for name in names:
        run(db, f"drop role {name}")


def role_of(session: Connection) -> str:
    """The role of a session."""
    return str(value(session, "select session_user::text"))


def graph_after(*parents: int) -> str:
    """The text of a graph of one task that waits for older ones."""
    return json.dumps([{"name": "n", "kind": "a", "depends_on": parents}])


def test_a_submitter_holds_up_tasks_of_its_own_only(
    db: Connection, peer: Peer, two_submitters: list[Connection]
) -> None:
    """An open transaction with edges from everybody's tasks is refused, and locks none of them."""
    one, two = two_submitters
    theirs = [submit(one) for _ in range(3)]
    ours = [submit(db) for _ in range(3)]
    with two.transaction():
        mine = submit(two)
        for statement, arguments in (
            ("select peers.submit('a', depends_on => %s)", (theirs,)),
            ("select peers.submit('a', depends_on => %s)", (ours,)),
            ("select peers.submit_graph(%s::jsonb)", (graph_after(mine, *theirs),)),
            (EDGE, (theirs[0], mine)),
        ):
            sqlstate, words = refusal(two, statement, *arguments)
            assert (sqlstate, "may not wait for it" in words) == ("PE005", True), words
        submit(two, depends_on=[mine])
        claims = peer.claim()  # while that transaction is open
        assert [claim.task_id for claim in claims] == theirs + ours
        assert peer.complete(*claims) == {}
    run(db, f"grant {role_of(one)} to {role_of(two)}")
    again = submit(one)
    assert state(db, submit(two, depends_on=[again])) == "blocked"
    sqlstate, _ = refusal(one, EDGE, mine, submit(one))
    assert sqlstate == "PE005", "the grant goes in one direction"


@pytest.mark.parametrize("right", ["peers_worker", "peers_operator"])
def test_workers_and_operators_wait_for_any_task(
    db: Connection, two_submitters: list[Connection], right: str
) -> None:
    """Who may claim or cancel a task anyway may wait for it."""
    one, two = two_submitters
    parent = submit(one)
    run(db, f"grant {right} to {role_of(two)}")
    assert state(db, submit(two, depends_on=[parent])) == "blocked"
    sqlstate, _ = refusal(two, EDGE, submit(two), parent)
    assert sqlstate == ("PE005" if right == "peers_worker" else "")


def test_a_submitter_makes_no_task_of_others_wait(
    db: Connection, two_submitters: list[Connection]
) -> None:
    """An edge into another role's task is refused."""
    one, two = two_submitters
    theirs = submit(one)
    sqlstate, words = refusal(two, EDGE, submit(two), theirs)
    assert sqlstate == "PE005"
    assert "may not make it wait" in words
    assert state(db, theirs) == "ready"


def test_nobody_but_the_owner_takes_the_turn_of_late_edges(
    db: Connection, two_submitters: list[Connection]
) -> None:
    """No role can lock what serializes late edges, by table or by advisory lock."""
    one, two = two_submitters
    run(db, f"grant peers_worker, peers_operator, peers_reader to {role_of(two)}")
    parent, child = submit(one), submit(one)
    modes = ("row exclusive", "share update exclusive", "share", "share row exclusive")
    for mode in (*modes, "exclusive", "access exclusive"):
        lock = f"lock table peers.dependency_lock in {mode} mode"
        assert refusal(two, lock)[0] == "42501", mode
    with two.transaction():
        run(two, "lock table peers.dependency_lock in access share mode")
        run(two, "select pg_advisory_xact_lock(hashtextextended(k, 0)) from unnest(array["
            "'peers: edge into an older task', 'peers: migrate']) k")  # fmt: skip
        run(one, "set lock_timeout = '2 s'")
        run(one, EDGE, parent, child)
    assert state(db, child) == "blocked"


@pytest.mark.parametrize("way", ["submit", "submit_graph"])
def test_nobody_submits_under_a_two_submitters_key(
    db: Connection, two_submitters: list[Connection], way: str
) -> None:
    """If another role has the key, submission says so instead of returning its task."""
    one, two = two_submitters

    def under(session: Connection, key: str) -> tuple[str, str]:
        if way == "submit":
            return refusal(session, "select peers.submit('a', idempotency_key => %s)", key)
        nodes = [{"name": "n", "kind": "a", "idempotency_key": key}]
        return refusal(session, "select peers.submit_graph(%s::jsonb)", json.dumps(nodes))

    assert under(one, "taken") == ("", "")
    assert under(one, "taken") == ("", "")
    sqlstate, words = under(two, "taken")
    assert sqlstate == "PE009"
    assert "belongs to another role" in words
    assert "Begin your keys" in words
    assert under(db, "taken") == ("", ""), "the owner may"
    assert under(db, "ours") == ("", "")
    assert under(two, "ours") == ("", ""), "and its tasks may stand for a submitter's"
    assert value(db, "select count(*) from peers.task") == 2


@pytest.mark.parametrize("way", ["submit", "submit_many_unique", "submit_graph"])
@pytest.mark.parametrize("on_duplicate", ["keep", "replace"])
def test_nobody_changes_the_task_of_another_role_by_its_unique_key(
    db: Connection, two_submitters: list[Connection], way: str, on_duplicate: str
) -> None:
    """A unique key that another role's task holds is refused; operators may use it."""
    one, two = two_submitters
    node = {"name": "n", "kind": "a", "unique_key": "k", "on_duplicate": on_duplicate}
    calls = {
        "submit": "select peers.submit('a', unique_key => 'k', on_duplicate => %s)",
        "submit_many_unique": "select * from peers.submit_many_unique('a', '[{}]', array['k'],"
        " on_duplicate => %s)",
        "submit_graph": "select peers.submit_graph(%s::jsonb)",
    }
    argument = json.dumps([node]) if way == "submit_graph" else on_duplicate

    def submit_to(session: Connection) -> tuple[str, str]:
        return refusal(session, calls[way], argument)

    assert submit_to(one) == ("", "")
    sqlstate, words = submit_to(two)
    assert (sqlstate, "the unique_key of task" in words) == ("PE009", True)
    assert "Begin your keys" in words
    assert submit_to(one) == submit_to(db) == ("", "")
    assert value(db, "select count(*) from peers.task") == 1
    assert refusal(two, "select * from peers.unique_key")[0] == "42501"


def test_a_submitter_needs_no_right_to_read_keys(
    db: Connection, two_submitters: list[Connection]
) -> None:
    """A plain ON CONFLICT DO NOTHING works; one that names the column would read keys."""
    [one, _] = two_submitters
    insert = "insert into peers.task (kind, idempotency_key) values ('a', 'k') on conflict"
    for _ in range(2):
        run(one, f"{insert} do nothing")
    assert refusal(one, f"{insert} (idempotency_key) do nothing")[0] == "42501"
    assert refusal(one, "select from peers.task where idempotency_key = 'k'")[0] == "42501"
    assert column(one, "select state from peers.task") == ["ready"]
    assert value(db, "select count(*) from peers.task") == 1


def test_a_submitter_changes_its_own_schedules_only(
    db: Connection, two_submitters: list[Connection]
) -> None:
    """With a plain INSERT or add_schedule; what the scheduler keeps cannot be inserted."""
    one, two = two_submitters
    insert = "insert into peers.schedule (name, kind, cron) values ('s', 'a', '@daily')"
    run(one, insert)
    forged = insert.replace("cron)", "cron, failures)").replace(
        "'s', 'a', '@daily'", "'f', 'a', '@daily', 1"
    )
    assert refusal(one, forged)[0] == "42501"
    change = "select peers.add_schedule(%s, replace => true)"
    changed = '{"name": "s", "kind": "b", "cron": "@daily"}'
    sqlstate, words = refusal(two, change, changed)
    assert (sqlstate, "belongs to another role" in words) == ("PE013", True)
    run(one, change, changed)
    assert column(db, "select kind from peers.schedule") == ["b"]


def test_readers_and_operators_see_schedules(db: Connection) -> None:
    """The view and the explanation need no more than their roles have; operators change columns."""
    run(db, "select peers.add_schedule(%s)", '{"name": "s", "kind": "a", "cron": "@daily"}')
    for role in ("peers_reader", "peers_operator"):
        run(db, f"set role {role}")
        assert value(db, "select changed_by_operator from peers.schedule_status") is False
        assert "due next" in value(db, "select peers.explain_schedule('s')")
    run(db, "update peers.schedule set cron = '@hourly', paused_at = now()")
    assert refusal(db, "update peers.schedule set next_due_at = now()")[0] == "42501"
    run(db, "delete from peers.schedule")
