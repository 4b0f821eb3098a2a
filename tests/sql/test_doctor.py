"""peers.doctor: each check finds its fault, and says nothing of a healthy database."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from peers.embedded import throwaway
from tests.support.cli import peers, until
from tests.support.doctor_faults import (
    FAULTS,
    SERVER_FAULTS,
    Ground,
    names,
    needs_another_server,
    planted,
    use_up_transactions,
)
from tests.support.server import Connection, Databases, open_connection, sql_files
from tests.support.world import Peer, column, rows, run, value

if TYPE_CHECKING:
    from collections.abc import Iterator

SQL_FIRST: Final = re.compile(
    r"(?:ALTER (?!SYSTEM)|COMMIT|DELETE|DROP|REINDEX|SELECT|VACUUM)\b[^;]*;"
)
AT_ONCE: Final = "0 s"
"""Nothing is too young to be a finding."""


def doctor(db: Connection, *checks: str, older_than: str = "5 min") -> list[dict[str, Any]]:
    """Return the findings of these checks, or of all."""
    return rows(
        db, "select * from peers.doctor(%s, %s::interval)", list(checks) or None, older_than
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_check_finds_its_fault_and_nothing_in_a_healthy_database(
    db: Connection, database_url: str, name: str
) -> None:
    """A finding has a level, names what it is about, and says what to type. SQL that its remedy
    starts with removes it.
    """
    if name in needs_another_server(db):
        pytest.skip("the settings of this server do not allow this fault")
    assert doctor(db, name, older_than=AT_ONCE) == []
    with planted(Ground(database_url, db), name):
        findings = doctor(db, name, older_than=AT_ONCE)
        statements = [match[0] for each in findings if (match := SQL_FIRST.match(each["remedy"]))]
        for statement in statements:
            run(db, statement)
        if statements:
            until(lambda: not doctor(db, name, older_than=AT_ONCE), "its remedy has removed it")
    assert names(findings) == {name}
    for found in findings:
        assert found["level"] in {"error", "warning", "note"}
        assert len(found["sentence"]) > 20
        assert found["subject"]
        assert found["remedy"]


SETTINGS: Final = {
    "isolation_default": "default_transaction_isolation = 'serializable'",
    "notify_off": "peers.notify = 'off'",
    "read_only": "default_transaction_read_only = 'on'",
    "replication_role": "session_replication_role = 'replica'",
    "session_timeout": "statement_timeout = '500ms'",
}
OWNERS: Final = (
    "database {database}", "role current_user", "role all", 'role "a ""role"', "role {role}",
    'role {role} in database {database}', 'role "a ""role" in database {database}',
)  # fmt: skip


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_found_wherever_it_is_stored(db: Connection, name: str, owner: str) -> None:
    """For the database, a role, a role in the database, or all roles; its remedy resets it."""
    with db.transaction(force_rollback=True):
        run(db, 'create role "a ""role" login in role peers_submitter')
        role = value(db, "select quote_ident(current_user)")
        place = owner.format(database=db.info.dbname, role=role)
        run(db, f"alter {place} set {SETTINGS[name]}")
        findings = doctor(db)
        assert names(findings) - {"fsync_off"} == {name}
        [found] = [each for each in findings if each["finding"] == name]
        assert found["subject"]
        statement = SQL_FIRST.match(found["remedy"])
        assert statement is not None, found
        run(db, statement[0])
        assert doctor(db, name) == []


@pytest.fixture(scope="module")
def own_server() -> Iterator[Connection]:
    """A server whose roles and settings no other test sees."""
    with throwaway() as postgres, open_connection(postgres.url()) as db:
        for file in sql_files():
            db.execute(file.read_bytes())
        run(db, "create role app login in role peers_submitter")
        yield db


def test_a_session_whose_role_is_dropped_is_found(own_server: Connection) -> None:
    """Nothing is left to alter, but the session can be ended."""
    run(own_server, "create role leaver login superuser")
    leaver = make_conninfo(own_server.info.dsn, user="leaver")
    with open_connection(leaver) as session, session.transaction():
        run(session, "lock table peers.task in access share mode")
        run(own_server, "drop role leaver")
        [found] = doctor(own_server, "idle_in_transaction", older_than=AT_ONCE)
        assert found["remedy"] == f"SELECT pg_terminate_backend({session.info.backend_pid});"


def test_every_check_has_a_fault_that_it_finds(db: Connection) -> None:
    """And a question; and peers.doctor knows all of them."""
    checks = column(db, "select name from peers.doctor_check")
    assert set(checks) == FAULTS.keys() | SERVER_FAULTS
    assert column(db, "select name from peers.doctor_check where question !~ '\\?$'") == []
    assert "check_not_made" not in names(doctor(db))


def test_a_healthy_database_that_works_has_no_finding(db: Connection) -> None:
    """Live peers, running and waiting tasks, a schedule, a limit, and a big batch just now."""
    run(db, "insert into peers.limit (name, kind, max_running) values ('l', 'a', 50)")
    run(db, "insert into peers.schedule (name, every, kind) values ('s', '1 hour', 'a')")
    peer = Peer.join(db)
    run(db, "insert into peers.task (kind) select 'a' from generate_series(1, 20000)")
    for _ in range(10):
        peer.complete(*peer.claim(1000))
    peer.claim(10)
    run(db, "select pg_stat_force_next_flush()")
    assert names(doctor(db)) <= {"fsync_off"}  # which the servers of tests have off


def test_a_check_that_fails_does_not_stop_the_others(db: Connection) -> None:
    """It is a note, with the reason."""
    run(
        db,
        "create or replace function peers._doctor_encoding(_older_than interval)"
        " returns setof peers.finding language plpgsql as"
        " $$ begin raise exception 'broken'; end $$",
    )
    run(db, "alter table peers.task disable trigger enqueue")
    findings = {found["finding"]: found for found in doctor(db)}
    assert "broken" in findings["check_not_made"]["sentence"]
    assert findings["check_not_made"]["subject"] == "encoding"
    assert findings["trigger_disabled"]["level"] == "error"


def test_a_locked_table_does_not_stop_the_others(db: Connection, database_url: str) -> None:
    """What reads it gives up after a second, and the wait of others for it is found."""
    with open_connection(database_url) as holder:
        run(holder, "begin")
        run(holder, "lock table peers.alert in access exclusive mode")
        findings = doctor(db, "open_alert", "encoding")
    assert [(found["finding"], found["subject"]) for found in findings] == [
        ("check_not_made", "open_alert")
    ]


def test_an_unknown_check_is_named(db: Connection) -> None:
    """A typing error is no silence."""
    [found] = doctor(db, "nix")
    assert "no check of this name" in found["sentence"]


def test_errors_come_first(db: Connection, database_url: str) -> None:
    """Then warnings, then notes."""
    with planted(Ground(database_url, db), "notify_off", "paused_queue", "trigger_disabled"):
        levels = [found["level"] for found in doctor(db, older_than=AT_ONCE)]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    assert {"error", "warning", "note"} <= set(levels)


@pytest.mark.parametrize("role", ["peers_worker", "peers_operator", "peers_reader"])
def test_a_role_of_peers_can_make_every_check(db: Connection, role: str) -> None:
    """None fails for a missing right; what stays hidden is a note of its own."""
    run(db, f"set role {role}")
    findings = doctor(db)
    run(db, "reset role")
    assert names(findings) <= {"fsync_off", "hidden_sessions"}


def test_a_submitter_may_not_examine(db: Connection) -> None:
    """It reads nothing."""
    run(db, "set role peers_submitter")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        doctor(db)


def test_a_rolling_upgrade_is_no_finding(db: Connection, database_url: str) -> None:
    """It is one once no peer has joined for a while. A peer without a version is no sign of one."""
    with planted(Ground(database_url, db), "version_skew"):
        Peer.join(db, host="host-c")
        assert doctor(db, "version_skew") == []
        [found] = doctor(db, "version_skew", older_than=AT_ONCE)
        assert "1.0 (1, such as on h)" in found["sentence"]
        assert "host-c" not in found["sentence"]
        run(db, "update peers.peer set version = '1.1'")
        assert doctor(db, "version_skew", older_than=AT_ONCE) == []


def test_a_healthy_slot_that_is_read_is_no_finding(db: Connection, database_url: str) -> None:
    """Only one that nothing reads."""
    ground = Ground(database_url, db)
    with planted(ground, "standby_feedback"):
        assert doctor(db, "replication_slot", older_than=AT_ONCE) == []


# --------------------------------------------------------------------- servers of their own


@pytest.fixture(scope="module")
def slow_server() -> Iterator[Connection]:
    """A server that vacuums too slowly, with the schema."""
    settings = {
        "autovacuum_max_workers": "1", "autovacuum_naptime": "1s",
        "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1",
        "autovacuum_freeze_max_age": "100000", "synchronous_commit": "on",
    }  # fmt: skip
    with throwaway(settings=settings) as postgres, ExitStack() as stack:
        databases = Databases(postgres.url("postgres"))
        databases.make_template()
        stack.callback(databases.close)
        url = stack.enter_context(databases.clone())
        yield stack.enter_context(
            psycopg.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row)
        )


def test_autovacuum_without_a_free_worker_is_found(slow_server: Connection) -> None:
    """Its only worker crawls over another table."""
    assert doctor(slow_server, "autovacuum_busy") == []
    run(slow_server, "create table public.big as select i from generate_series(1, 200000) i")
    run(slow_server, "delete from public.big")
    until(lambda: doctor(slow_server, "autovacuum_busy", older_than=AT_ONCE), "autovacuum is busy")


def test_transaction_ids_that_run_out_are_found(slow_server: Connection) -> None:
    """Older than autovacuum lets them become by a fifth."""
    assert doctor(slow_server, "wraparound") == []
    run(slow_server, "set synchronous_commit = off")
    use_up_transactions(slow_server, 125_000)
    findings = doctor(slow_server, "wraparound")
    run(slow_server, "reset synchronous_commit")
    assert {found["level"] for found in findings} == {"warning"}
    assert f"database {slow_server.info.dbname}" in {found["subject"] for found in findings}


def test_a_synchronous_standby_that_is_away_is_found(slow_server: Connection) -> None:
    """Commits would wait for it."""
    assert doctor(slow_server, "synchronous_standby") == []
    run(slow_server, "set synchronous_commit = local")
    run(slow_server, "alter system set synchronous_standby_names = 'nobody'")
    run(slow_server, "select pg_reload_conf()")
    query = "select current_setting('synchronous_standby_names') as names"
    until(lambda: value(slow_server, query) == "nobody", "the setting is in force")
    [found] = doctor(slow_server, "synchronous_standby")
    assert found["level"] == "error"
    run(slow_server, "alter system reset synchronous_standby_names")
    run(slow_server, "select pg_reload_conf()")
    until(lambda: value(slow_server, query) == "", "the setting is gone")


def test_autovacuum_that_is_off_for_the_server_is_found(slow_server: Connection) -> None:
    """Like the statistics that it needs."""
    assert doctor(slow_server, "autovacuum_off") == []
    run(slow_server, "set track_counts = off")
    [found] = doctor(slow_server, "autovacuum_off")
    run(slow_server, "reset track_counts")
    assert found["subject"] == "track_counts"


def test_a_server_that_does_not_flush_is_found(db: Connection) -> None:
    """The servers of tests are such ones."""
    assert names(doctor(db, "fsync_off")) == {"fsync_off"}


def test_an_encoding_that_does_not_convert_is_found(databases: Databases, db: Connection) -> None:
    """With psql one installs the schema into such a database; `peers migrate` does not."""
    assert doctor(db, "encoding") == []
    with (
        databases.empty(
            "encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0"
        ) as url,
        open_connection(url) as other,
    ):
        for file in sql_files():
            other.execute(file.read_bytes())
        run(other, "set client_encoding = 'UTF8'")
        [found] = doctor(other, "encoding")
        assert found["level"] == "error"


def test_a_collation_of_an_earlier_operating_system_is_found(databases: Databases) -> None:
    """A text index that was built with another order misses rows."""
    options: Any = "locale_provider icu icu_locale 'en-US' template template0"
    try:
        made = databases.empty(options)
        url = made.__enter__()
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this server was built without ICU")
    with ExitStack() as stack:
        stack.push(made)
        db = stack.enter_context(open_connection(url))
        for file in sql_files():
            db.execute(file.read_bytes())
        assert doctor(db, "collation_version") == []
        run(
            db,
            "update pg_database set datcollversion = '0' where datname = current_database()",
        )
        [found] = doctor(db, "collation_version")
        assert found["level"] == "warning"


def test_a_standby_is_found() -> None:
    """Every check can be made there."""
    with throwaway() as postgres:
        with open_connection(postgres.url()) as db:
            for file in sql_files():
                db.execute(file.read_bytes())
            signal = Path(value(db, "show data_directory")) / "standby.signal"
        signal.touch()
        shutil.chown(signal, signal.parent.owner())
        postgres.restart()
        with open_connection(postgres.url()) as db:
            findings = doctor(db)
        assert row_of(findings, "read_only")["subject"] == "the server"
        assert names(findings) <= {"read_only", "fsync_off"}
        answer = peers("doctor", "--json", url=postgres.url())
        assert answer.code == 1
        assert {each["finding"] for each in answer.document["findings"]} <= {
            "read_only",
            "fsync_off",
        }
        for words in WRITES:
            answer = peers(*words, url=postgres.url())
            assert (answer.code, answer.out) == (3, "")
            assert "accepts no changes" in answer.err
            assert "CONTEXT" not in answer.err


WRITES: Final = (["submit", "a"], ["cancel", "1"], ["pause", "a"], ["peek", "1"], ["migrate"])


def test_no_duration_is_no_text(db: Connection) -> None:
    """A table that was never vacuumed was not vacuumed 0 ms ago."""
    assert value(db, "select peers._duration_text(null)") is None


def row_of(findings: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the only finding of this name."""
    [found] = [found for found in findings if found["finding"] == name]
    return found
