"""Real faults for the checks of peers.doctor, each planted in a database and removed again.

`FAULTS` has one for each check of the schema, by the check's name. Those that need a server of
their own are in `SERVER_FAULTS`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import struct
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq

from tests.support.cli import bury, join, until
from tests.support.schedules import add_schedule, fire
from tests.support.server import Connection, open_connection
from tests.support.world import Peer, advance, column, run, submit, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Ground:
    """A database, and sessions in it that end with the fault."""

    url: str
    db: Connection
    stack: ExitStack = field(default_factory=ExitStack)

    def session(self) -> Connection:
        """Open another session."""
        session = open_connection(self.url)
        self.stack.callback(session.close)
        return session

    def finally_(self, statement: str) -> None:
        """Execute this when the fault is removed, unless its remedy has removed it."""

        def execute() -> None:
            with contextlib.suppress(psycopg.errors.UndefinedObject):
                run(self.db, statement)

        self.stack.callback(execute)


FAULTS: Final[dict[str, Callable[[Ground], None]]] = {}


def fault(plant: Callable[[Ground], None]) -> Callable[[Ground], None]:
    """Register a fault under the name of the check that finds it."""
    FAULTS[plant.__name__] = plant
    return plant


def needs_another_server(db: Connection) -> set[str]:
    """Return the faults that cannot be planted on this server, because of its settings."""
    needs = {
        "prepared_transaction": "current_setting('max_prepared_transactions')::integer > 0",
        "replication_slot": "current_setting('wal_level') = 'logical'",
    }
    return {name for name, met in needs.items() if not value(db, f"select {met}")}


@contextmanager
def planted(ground: Ground, *names: str) -> Iterator[None]:
    """Plant faults, and remove them at the end."""
    with ground.stack:
        for name in names:
            FAULTS[name](ground)
        run(ground.db, "select pg_stat_force_next_flush()")
        yield
    run(ground.db, "reset role")


def by_hand(db: Connection, *statements: str) -> None:
    """Execute statements that the guard refuses otherwise."""
    with db.transaction():
        run(db, "set local search_path = pg_catalog, peers, pg_temp")
        for statement in statements:
            run(db, statement)


# ------------------------------------------------------------------------------------- sessions


@fault
def connections(ground: Ground) -> None:
    """The limit of the database is reached. Superusers may still connect."""
    name = ground.db.info.dbname
    run(ground.db, f"alter database {name} connection limit 1")
    ground.finally_(f"alter database {name} connection limit -1")


@fault
def hidden_sessions(ground: Ground) -> None:
    """The role that examines is no member of pg_monitor, and others are connected."""
    ground.session()
    run(ground.db, "set role peers_reader")
    ground.finally_("reset role")


@fault
def idle_in_transaction(ground: Ground) -> None:
    """A session has read a table, and stays in its transaction."""
    session = ground.session()
    run(session, "begin")
    run(session, "select from peers.ready")


@fault
def old_snapshot(ground: Ground) -> None:
    """A session idles in a transaction whose snapshot is old."""
    session = ground.session()
    run(session, "begin isolation level repeatable read")
    run(session, "select 1")


@fault
def lock_wait(ground: Ground) -> None:
    """ALTER TABLE waits for a reader that idles in a transaction."""
    holder, waiter = ground.session(), ground.session()
    run(holder, "begin")
    run(holder, "lock table peers.cooldown in access share mode")
    pid = waiter.info.backend_pid

    def wait() -> None:
        try:
            run(waiter, "alter table peers.cooldown add column doctor integer")
        except psycopg.Error:
            return

    thread = threading.Thread(target=wait)
    thread.start()
    ground.stack.callback(thread.join)
    ground.stack.callback(holder.close)
    ground.stack.callback(run, ground.db, f"select pg_cancel_backend({pid})")
    query = f"select count(*) from pg_locks where not granted and pid = {pid}"
    until(lambda: value(ground.db, query), "the session waits")


@fault
def notification_queue(ground: Ground) -> None:
    """A session that listens stays in a transaction, and more than 1 % of the queue fills."""
    listener = ground.session()
    run(listener, "listen doctor")
    run(listener, "begin")
    run(listener, "select 1")
    run(
        ground.db,
        "select pg_notify('doctor', repeat('x', 7900) || i) from generate_series(1, 11500) i",
    )
    ground.stack.callback(listener.close)


@fault
def prepared_transaction(ground: Ground) -> None:
    """Nobody has committed a prepared transaction."""
    name = f"doctor_{secrets.token_hex(4)}"
    session = ground.session()
    run(session, "begin")
    run(session, "create table public.prepared ()")
    run(session, f"prepare transaction '{name}'")
    ground.finally_(f"rollback prepared '{name}'")


@fault
def replication_slot(ground: Ground) -> None:
    """Nothing reads a logical replication slot."""
    name = f"doctor_{secrets.token_hex(4)}"
    run(ground.db, f"select pg_create_logical_replication_slot('{name}', 'pgoutput')")
    run(ground.db, "create table public.written as select 1")
    ground.finally_(f"select pg_drop_replication_slot('{name}')")


@fault
def standby_feedback(ground: Ground) -> None:
    """A standby reports that a query needs old rows; this speaks its protocol."""
    xmin = int(value(ground.db, "select pg_current_xact_id()::text"))
    walsender = pq.PGconn.connect(f"{ground.url} replication=true".encode())
    ground.stack.callback(walsender.finish)
    start = str(value(ground.db, "select pg_current_wal_lsn()::text"))
    assert walsender.exec_(f"START_REPLICATION {start}".encode()).status == pq.ExecStatus.COPY_BOTH
    epoch, low = divmod(xmin, 1 << 32)
    walsender.put_copy_data(b"h" + struct.pack("!qIIII", 0, low, epoch, 0, 0))
    walsender.flush()
    until(
        lambda: column(ground.db, "select pid from pg_stat_replication where backend_xmin <> '0'"),
        "the feedback has come",
    )
    use_up_transactions(ground.db, 100_100)


def use_up_transactions(db: Connection, number: int) -> None:
    """Assign transaction ids."""
    run(
        db,
        "do $$ begin for i in 1.." + str(number) + " loop perform pg_current_xact_id(); commit;"
        " end loop; end $$",
    )


# --------------------------------------------------------------------------------------- vacuum


@fault
def autovacuum_off(ground: Ground) -> None:
    """It was switched off for one table."""
    run(ground.db, "alter table peers.ready set (autovacuum_enabled = off)")


@fault
def dead_rows(ground: Ground) -> None:
    """Tasks came and went, and nothing vacuumed."""
    run(ground.db, "alter table peers.ready set (autovacuum_enabled = off)")
    run(ground.db, "insert into peers.task (kind) select 'a' from generate_series(1, 12000)")
    peer = Peer.join(ground.db)
    for _ in range(12):
        peer.complete(*peer.claim(1000))
    run(ground.db, "select pg_stat_force_next_flush()")


@fault
def index_bloat(ground: Ground) -> None:
    """An index with nearly empty pages has lost its rows."""
    run(ground.db, "create unlogged table peers.wide (key integer)")
    run(ground.db, "insert into peers.wide select generate_series(1, 900000)")
    run(ground.db, "create index on peers.wide (key) with (fillfactor = 10)")
    run(ground.db, "delete from peers.wide")
    run(ground.db, "vacuum (analyze, truncate off) peers.wide")


@fault
def sequence_position(ground: Ground) -> None:
    """Rows were restored without their sequence."""
    submit(ground.db)
    submit(ground.db)
    run(ground.db, "select setval(pg_get_serial_sequence('peers.task', 'id'), 1)")


# ------------------------------------------------------------------------------------- settings


def _database_setting(ground: Ground, name: str, setting: str) -> None:
    run(ground.db, f"alter database {ground.db.info.dbname} set {name} = '{setting}'")
    ground.finally_(f"alter database {ground.db.info.dbname} reset {name}")


@fault
def clock_shift(ground: Ground) -> None:
    """A test has forgotten it."""
    advance(ground.db, "1 s")
    ground.finally_("delete from peers.clock")


@fault
def isolation_default(ground: Ground) -> None:
    """The application's own choice."""
    _database_setting(ground, "default_transaction_isolation", "serializable")


@fault
def notify_off(ground: Ground) -> None:
    """Set for the whole database."""
    _database_setting(ground, "peers.notify", "off")


@fault
def read_only(ground: Ground) -> None:
    """A managed server does this when its disk is full."""
    _database_setting(ground, "default_transaction_read_only", "on")


@fault
def replication_role(ground: Ground) -> None:
    """Left over from a restore."""
    _database_setting(ground, "session_replication_role", "replica")


@fault
def session_timeout(ground: Ground) -> None:
    """Made for a web application."""
    _database_setting(ground, "statement_timeout", "500ms")


@fault
def small_memory(ground: Ground) -> None:
    """As little as Postgres takes."""
    run(ground.db, "set work_mem = '64kB'")
    ground.finally_("reset work_mem")


@fault
def statistics_off(ground: Ground) -> None:
    """It was switched off to save a little time."""
    run(ground.db, "set track_activities = off")
    ground.finally_("reset track_activities")


# ----------------------------------------------------------------------------------- the schema


@fault
def foreign_trigger(ground: Ground) -> None:
    """The application's own."""
    run(
        ground.db,
        "create function public.note() returns trigger language plpgsql as"
        " $$ begin return null; end $$",
    )
    run(
        ground.db,
        "create trigger note after update on peers.task execute function public.note()",
    )


@fault
def grants_missing(ground: Ground) -> None:
    """A dump was restored without its privileges."""
    run(ground.db, "revoke execute on all functions in schema peers from peers_worker")


@fault
def index_hinders_hot(ground: Ground) -> None:
    """Made for a fast count of states."""
    run(ground.db, "create index by_state on peers.task (kind) where state = 'dead'")


@fault
def index_invalid(ground: Ground) -> None:
    """CREATE UNIQUE INDEX CONCURRENTLY has met duplicates."""
    submit(ground.db)
    submit(ground.db)
    try:
        run(ground.db, "create unique index concurrently one_of_each on peers.task (kind)")
    except psycopg.errors.UniqueViolation:
        return
    raise AssertionError("the index was created")


@fault
def owner_differs(ground: Ground) -> None:
    """A dump was restored by several roles."""
    role = f"doctor_{secrets.token_hex(4)}"
    run(ground.db, f"create role {role}")
    run(ground.db, f"alter function peers.leave(uuid) owner to {role}")
    ground.finally_(f"drop role {role}")
    ground.finally_(f"drop owned by {role}")


@fault
def row_security(ground: Ground) -> None:
    """A managed service recommends it for every table."""
    run(ground.db, "alter table peers.task enable row level security")


@fault
def trigger_disabled(ground: Ground) -> None:
    """A restore has disabled it."""
    run(ground.db, "alter table peers.task disable trigger enqueue")


@fault
def unlogged_table(ground: Ground) -> None:
    """Made to write faster."""
    run(ground.db, "alter table peers.dead set unlogged")


# ------------------------------------------------------------------------------------- the work


@fault
def expired_lease(ground: Ground) -> None:
    """A live peer does not reclaim."""
    submit(ground.db)
    Peer.join(ground.db).claim()
    advance(ground.db, "5 min")
    Peer.join(ground.db)


@fault
def failing_schedule(ground: Ground) -> None:
    """The application's trigger refuses the task of a schedule."""
    run(
        ground.db,
        "create function public.refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'not today'; end $$",
    )
    run(
        ground.db,
        "create trigger refuse before insert on peers.task for each row"
        " when (new.kind = 'refused') execute function public.refuse()",
    )
    add_schedule(ground.db, "refused", kind="refused", every="1 min")
    fire(ground.db)
    advance(ground.db, "61 s")
    fire(ground.db)


@fault
def held_children(ground: Ground) -> None:
    """A parent is dead."""
    parent = submit(ground.db)
    submit(ground.db, depends_on=[parent])
    bury(ground.db, join(ground.db, "a"))


@fault
def late_heartbeat(ground: Ground) -> None:
    """A peer was stopped 25 s ago."""
    Peer.join(ground.db)
    advance(ground.db, "25 s")


@fault
def version_skew(ground: Ground) -> None:
    """An upgrade stopped halfway."""
    for version in ("1.0", "1.1"):
        run(
            ground.db,
            "select peers.join('h', 1, '{\"default\": 1}', '[]', '30 s', peers.contract_version(),"
            " jsonb_build_object('version', %s::text))",
            version,
        )


@fault
def late_schedule(ground: Ground) -> None:
    """A peer lives, and does not fire."""
    add_schedule(ground.db, "late", every="1 min")
    fire(ground.db)
    advance(ground.db, "3 min")
    Peer.join(ground.db)


@fault
def limit_shut(ground: Ground) -> None:
    """It was shut and forgotten."""
    run(ground.db, "insert into peers.limit (name, kind, max_running) values ('l', 'b', 1)")
    run(ground.db, "select peers.shut_limit('l')")


@fault
def lost_peer(ground: Ground) -> None:
    """It sent no heartbeat, and another one reclaimed."""
    submit(ground.db)
    Peer.join(ground.db).claim()
    other = Peer.join(ground.db, host="host-b")
    for _ in range(6):
        advance(ground.db, "10 s")
        other.heartbeat()
    run(ground.db, "select * from peers.reclaim(%s)", other.id)


@fault
def no_peer(ground: Ground) -> None:
    """Nobody has started one."""
    submit(ground.db)


@fault
def open_alert(ground: Ground) -> None:
    """No run of a schedule has completed in time."""
    add_schedule(ground.db, "nightly", every="1 h", expect_within="1 min")
    fire(ground.db)
    advance(ground.db, "62 min")
    fire(ground.db)
    advance(ground.db, "10 min")
    fire(ground.db)


@fault
def overdue_task(ground: Ground) -> None:
    """A peer lives, and does not promote."""
    run(
        ground.db,
        "insert into peers.task (kind, scheduled_at) values ('a', now() + interval '1 min')",
    )
    advance(ground.db, "5 min")
    Peer.join(ground.db)


@fault
def paused_graph(ground: Ground) -> None:
    """Nobody has resumed it."""
    nodes = json.dumps([{"name": "x", "kind": "a"}])
    run(ground.db, "select * from peers.submit_graph(%s::jsonb, 'g')", nodes)
    run(ground.db, "select peers.pause_graph(id) from peers.graph")


@fault
def paused_queue(ground: Ground) -> None:
    """Nobody has resumed it."""
    submit(ground.db)
    run(ground.db, "select peers.pause('default')")


@fault
def peer_before_migration(ground: Ground) -> None:
    """The schema was migrated, and a peer was not restarted."""
    Peer.join(ground.db)
    run(ground.db, "insert into peers.migration (version, name) values (2, '19_0002_x.sql')")


@fault
def slow_cancel(ground: Ground) -> None:
    """A handler ignores the request."""
    task = submit(ground.db)
    Peer.join(ground.db).claim()
    run(ground.db, "select peers.cancel(%s)", task)


@fault
def unrunnable_kind(ground: Ground) -> None:
    """The live peer's code is older than the task."""
    Peer.join(ground.db, "a")
    submit(ground.db, "b")


SERVER_FAULTS: Final = {
    "autovacuum_busy", "collation_version", "encoding", "fsync_off", "synchronous_standby",
    "wraparound",
}  # fmt: skip
"""The checks whose faults belong to a server or a database of their own."""


def names(findings: list[dict[str, Any]]) -> set[str]:
    """Return the names of findings."""
    return {found["finding"] for found in findings}
