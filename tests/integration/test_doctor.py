"""`peers doctor`: what only a client sees, a broken setup, and many faults at once."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from peers.doctor import connecting, examination, notifications, server
from peers.doctor.check import CheckContext
from peers.doctor.examination import CLIENT_CHECKS
from peers.embedded import EmbeddedPostgres
from peers.errors import DatabaseUnreachable
from peers.settings import Settings
from tests.support.cli import Answer, Here, peers, until
from tests.support.doctor_faults import Ground, by_hand, needs_another_server, planted
from tests.support.proxy import Proxy
from tests.support.server import Connection, Databases
from tests.support.world import Peer, run, submit

if TYPE_CHECKING:
    from collections.abc import Iterator

FOUND: Final = 1
WRONG_USAGE: Final = 2
UNREACHABLE: Final = 3
BAD_CONFIGURATION: Final = 78
OF_THE_SERVERS_OF_TESTS: Final = {"fsync_off"}
PGBOUNCER: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@pytest.fixture
def here(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Run commands on this test's database, in this process."""
    return Here(database_url, monkeypatch, capsys)


def findings(answer: Answer) -> dict[str, dict[str, Any]]:
    """Return the findings of a document by their names, without those of any server of tests."""
    return {
        found["finding"]: found
        for found in answer.document["findings"]
        if found["finding"] not in OF_THE_SERVERS_OF_TESTS
    }


def doctor(here: Here, *words: str) -> dict[str, dict[str, Any]]:
    """Run `peers doctor --json` and return its findings by their names."""
    return findings(here("doctor", "--json", *words))


# ------------------------------------------------------------------------------- the whole


FIFTEEN: Final = (
    "replication_slot", "autovacuum_off", "session_timeout", "isolation_default", "notify_off",
    "index_hinders_hot", "row_security", "foreign_trigger", "index_invalid", "held_children",
    "paused_queue", "old_snapshot", "idle_in_transaction", "lock_wait", "prepared_transaction",
)  # fmt: skip
"""In an order in which none of them has to wait for another."""
CHANGED: Final = (
    "drop index peers.task_graph",
    "drop trigger notify_scheduled on peers.scheduled",
    "create or replace function peers.contract_version() returns integer language sql immutable"
    " set search_path = pg_catalog, peers, pg_temp as $$ select 1 + 0 $$",
)


def test_many_faults_at_once_are_all_found(here: Here, db: Connection, database_url: str) -> None:
    """Fifteen of the database, if its server allows them, and three that only a client sees; each
    with a remedy.
    """
    for statement in CHANGED:
        run(db, statement)
    faults = [name for name in FIFTEEN if name not in needs_another_server(db)]
    assert len(faults) > 10
    with planted(Ground(database_url, db), *faults):
        answer = here("doctor", "--json", "--older-than", "0s")
        text = here("doctor", "--older-than", "0s")
    found = findings(answer)
    assert {*faults, "index_missing", "trigger_missing", "function_differs"} <= found.keys()
    assert all(each["remedy"] for each in found.values())
    assert answer.code == text.code == FOUND
    assert "ERROR trigger_missing: the schema\n" in text.out
    assert text.out.index("ERROR") < text.out.index("WARNING") < text.out.index("NOTE")
    assert "remedy: ALTER TABLE peers.ready RESET (autovacuum_enabled);" in text.out


@pytest.mark.parametrize(
    ("name", "is_gone"),
    [
        ("paused_queue", True), ("paused_graph", True), ("limit_shut", True),
        ("held_children", False), ("late_schedule", False), ("open_alert", False),
        ("slow_cancel", False),
    ],
)  # fmt: skip
def test_the_command_that_a_remedy_starts_with_can_be_typed(
    here: Here, db: Connection, database_url: str, name: str, is_gone: bool
) -> None:
    """It removes the fault, or shows more of it."""
    with planted(Ground(database_url, db), name):
        remedy = doctor(here, name, "--older-than", "0s")[name]["remedy"]
        program, *words = shlex.split(remedy.split(";")[0])
        assert program == "peers"
        assert here(*words).code == 0
        assert (doctor(here, name, "--older-than", "0s") == {}) is is_gone


def test_names_in_a_command_are_quoted_for_the_shell(here: Here, db: Connection) -> None:
    """Whatever they contain."""
    queue = "it's $(x)"
    run(db, "insert into peers.task (kind, queue) values ('a', %s)", queue)
    run(db, "select peers.pause(%s)", queue)
    remedy = doctor(here, "paused_queue", "--older-than", "0s")["paused_queue"]["remedy"]
    assert shlex.split(remedy.split("; or")[0]) == ["peers", "resume", queue]


def test_all_is_well_on_a_durable_embedded_database() -> None:
    """Nothing at all is found there, and the exit code is 0."""
    # not below tmp_path, which pytest closes to the account of the server
    place = Path(tempfile.mkdtemp(prefix="peers-doctor-"))
    place.chmod(0o711)
    environment_ = {"PEERS_EMBEDDED": "1", "PEERS_EMBEDDED_DATA": str(place / "data")}
    try:
        answer = peers("doctor", env=environment_)
        assert (answer.code, answer.out.split(":")[0]) == (0, "all is well"), answer
        document = peers("doctor", "--json", "--thorough", env=environment_).document
        assert document["findings"] == []
        assert len(document["checks"]) > 55
        assert document["role_may"] == "submit, run a peer, read, operate"
    finally:
        EmbeddedPostgres(place / "data").stop()
        shutil.rmtree(place)


def test_a_healthy_database_with_a_big_batch_is_well(here: Here, db: Connection) -> None:
    """Peers live, tasks wait, and thousands have just ended."""
    run(db, "insert into peers.task (kind) select 'a' from generate_series(1, 20000)")
    peer = Peer.join(db)
    for _ in range(10):
        peer.complete(*peer.claim(1000))
    run(db, "select pg_stat_force_next_flush()")
    assert doctor(here, "--thorough") == {}


def test_single_checks_can_be_made(here: Here) -> None:
    """By their names; a wrong name is a usage error."""
    answer = here("doctor", "--json", "encoding", "notification", "inconsistent", "--thorough")
    assert sorted(answer.document["checks"]) == ["encoding", "inconsistent", "notification"]
    with pytest.raises(SystemExit) as end:
        here("doctor", "encodign")
    assert end.value.code == WRONG_USAGE


def test_a_check_that_takes_too_long_does_not_stop_the_others(
    here: Here, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a note that says so."""
    monkeypatch.setattr(examination, "_BOUNDS", examination._BOUNDS._replace(statement=0.3))
    run(
        db,
        "create or replace function peers._doctor_encoding(_older_than interval)"
        " returns setof peers.finding language plpgsql set search_path = pg_catalog, peers, pg_temp"
        " as $$ begin perform pg_sleep(60); end $$",
    )
    found = findings(here("doctor", "--json", "encoding", "no_peer", "connections"))
    assert found.keys() == {"check_not_made"}
    assert found["check_not_made"]["subject"] == "encoding"
    assert "longer than" in found["check_not_made"]["sentence"]


def test_a_lost_connection_is_a_finding(here: Here, db: Connection) -> None:
    """What was found before it is still shown."""
    run(
        db,
        "create or replace function peers._doctor_encoding(_older_than interval)"
        " returns setof peers.finding language plpgsql set search_path = pg_catalog, peers, pg_temp"
        " as $$ begin perform pg_terminate_backend(pg_backend_pid()); end $$",
    )
    run(db, "select peers.submit('a')")
    answer = here("doctor", "--json")
    assert answer.code == UNREACHABLE
    assert "connection_lost" in findings(answer)


def test_inconsistent_tables_are_found_when_asked_for(here: Here, db: Connection) -> None:
    """Only --thorough reads every task."""
    Peer.join(db)
    submit(db)
    by_hand(db, "delete from peers.ready")
    assert doctor(here) == {}
    assert doctor(here, "--thorough").keys() == {"inconsistent"}


# --------------------------------------------------------------------------- a broken setup


def test_a_database_without_the_schema(empty_database_url: str) -> None:
    """It says what to run, and that alone."""
    answer = peers("doctor", "--json", url=empty_database_url)
    assert findings(answer).keys() == {"schema_missing"}
    assert answer.code == FOUND


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("create or replace function peers.contract_version() returns integer language sql"
         " immutable set search_path = pg_catalog, peers, pg_temp as $$ select 0 $$", "schema_old"),
        ("create or replace function peers.contract_version() returns integer language sql"
         " immutable set search_path = pg_catalog, peers, pg_temp as $$ select 99 $$",
         "schema_newer"),
        ("drop table peers.alert cascade", "schema_unreleased"),
        ("drop function peers.leave(uuid)", "function_missing"),
        ("drop index peers.lease_peer", "index_missing"),
        ("drop trigger enqueue on peers.task", "trigger_missing"),
    ],
)  # fmt: skip
def test_a_schema_that_does_not_fit(here: Here, db: Connection, statement: str, name: str) -> None:
    """Another version, or one that lost a part."""
    assert doctor(here) == {}
    run(db, statement)
    found = doctor(here)
    assert name in found
    assert found[name]["remedy"]


def test_the_remedy_of_a_missing_index_works(here: Here, db: Connection) -> None:
    """What it says to type creates it again."""
    run(db, "drop index peers.lease_peer")
    run(db, doctor(here)["index_missing"]["remedy"])
    assert doctor(here) == {}


@pytest.fixture
def role(db: Connection) -> Iterator[str]:
    """A role that may log in, and has no other right."""
    name = f"doctor_{secrets.token_hex(4)}"
    run(db, f"create role {name} login")
    yield name
    run(db, f"drop owned by {name}")
    run(db, f"drop role {name}")


def test_a_role_without_rights(database_url: str, role: str) -> None:
    """It learns what to grant."""
    answer = peers("doctor", "--json", url=make_conninfo(database_url, user=role))
    found = findings(answer)
    assert "missing_privilege" in found
    assert f'GRANT peers_worker TO "{role}"' in found["missing_privilege"]["remedy"]
    assert answer.code == FOUND


@pytest.mark.parametrize(
    ("duty", "may"),
    [
        ("peers_submitter", "submit"),
        ("peers_worker", "run a peer"),
        ("peers_reader", "read"),
        ("peers_operator", "read, operate"),
    ],
)
def test_a_role_with_one_duty(
    db: Connection, database_url: str, role: str, duty: str, may: str
) -> None:
    """Nothing is wrong with it; what it may not see is a note with the grant that helps."""
    run(db, f"grant {duty} to {role}")
    answer = peers("doctor", "--json", url=make_conninfo(database_url, user=role))
    found = findings(answer)
    assert answer.document["role_may"] == may
    if duty == "peers_submitter":
        assert found.keys() == {"check_not_made"}
        assert f'GRANT peers_reader, pg_monitor TO "{role}"' in found["check_not_made"]["remedy"]
    else:
        assert found.keys() == {"hidden_sessions"}  # `db` of another role is connected
        run(db, f"grant pg_monitor to {role}")
        again = peers("doctor", "--json", url=make_conninfo(database_url, user=role))
        assert findings(again) == {}


def test_wrong_settings() -> None:
    """A finding with the remedy, and exit code 78."""
    answer = peers("doctor", "--json")
    assert (answer.code, set(findings(answer))) == (BAD_CONFIGURATION, {"bad_configuration"})
    answer = peers("doctor", url="postgresql://x/y", env={"PEERS_LEASE_TIMEOUT": "soon"})
    assert answer.code == BAD_CONFIGURATION
    assert "ERROR bad_configuration" in answer.out


@pytest.mark.parametrize(
    "url",
    [
        "mysql://x",
        "postgresql://u@h/d?bogus=1",
        "postgresql://u@127.0.0.1:abc/d",
        "host=127.0.0.1 port=99999999",
    ],
)
def test_a_url_that_cannot_be_read_is_a_wrong_setting(url: str) -> None:
    """The other commands have the same exit code; no server was asked."""
    answer = peers("doctor", "--json", url=url)
    assert (answer.code, set(findings(answer))) == (BAD_CONFIGURATION, {"bad_configuration"})
    status = peers("status", url=url)
    assert status.code == BAD_CONFIGURATION
    assert "the database URL cannot be" in status.err


# --------------------------------------------------------------------- nothing can be reached


class FakeServer:
    """Refuses each connection with one message, or says nothing."""

    def __init__(self, message: str | None) -> None:
        self._message = message
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kept: list[socket.socket] = []
        self.url = f"host=127.0.0.1 port={self._listener.getsockname()[1]} user=u dbname=d"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._kept.append(client)
                if self._message is not None:
                    client.recv(4096)
                    fields = b"SFATAL\0C28P01\0M" + self._message.encode() + b"\0\0"
                    client.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)

    def close(self) -> None:
        """Stop."""
        for each in (self._listener, *self._kept):
            each.close()


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ('password authentication failed for user "u"', "password_refused"),
        ("the database system is starting up", "server_starting"),
        (None, "no_reply"),
        ("something is odd", "unreachable"),
    ],
)
def test_a_server_that_refuses(message: str | None, name: str) -> None:
    """The cause is named."""
    fake = FakeServer(message)
    url = f"{fake.url} sslmode=disable gssencmode=disable connect_timeout=2"
    answer = peers("doctor", "--json", url=url)
    fake.close()
    assert (answer.code, set(findings(answer))) == (UNREACHABLE, {name})


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("host=nowhere.invalid", "host_unknown"),
        ("host=127.0.0.1 port=1", "connection_refused"),
        ("host=/nowhere", "socket_missing"),
    ],
)
def test_a_wrong_address(url: str, name: str) -> None:
    """DNS, a refused connection, and a missing socket differ."""
    answer = peers("doctor", "--json", url=f"{url} user=u dbname=d")
    assert (answer.code, set(findings(answer))) == (UNREACHABLE, {name})
    assert answer.document["reached"] is False


def test_a_wrong_name(db: Connection, database_url: str, role: str) -> None:
    """Of the database or the role, a missing right to connect, no free connection."""
    database = db.info.dbname
    run(db, f"revoke connect on database {database} from public")

    def cause(**parameters: str) -> set[str]:
        answer = peers("doctor", "--json", url=make_conninfo(database_url, **parameters))
        assert answer.code == UNREACHABLE
        return set(findings(answer))

    assert cause(dbname="nowhere") == {"database_missing"}
    assert cause(user="nobody_here") == {"role_missing"}
    assert cause(user=role) == {"access_refused"}
    run(db, f"grant connect on database {database} to {role}")
    run(db, f"alter role {role} connection limit 0")
    assert cause(user=role) == {"no_connection_free"}


def test_a_server_without_tls(database_url: str) -> None:
    """The client demands it; this needs TCP."""
    with Proxy(database_url) as proxy:
        answer = peers("doctor", "--json", url=make_conninfo(proxy.url, sslmode="require"))
    assert (answer.code, set(findings(answer))) == (UNREACHABLE, {"tls_failed"})


def test_no_host_accepts_writes(db: Connection, database_url: str) -> None:
    """Of several hosts, the one that accepts writes is taken."""
    run(db, f"alter database {db.info.dbname} set default_transaction_read_only = on")
    url = make_conninfo(database_url, target_session_attrs="read-write")
    answer = peers("doctor", "--json", url=url)
    assert (answer.code, set(findings(answer))) == (UNREACHABLE, {"no_writable_server"})


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "u", database "d", SSL encryption',
         "access_refused"),
        ('FATAL:  password authentication failed for user "u"\nconnection to "db" failed: '
         'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "u", database "d", no encryption',
         "password_refused"),
        ("fe_sendauth: no password supplied", "password_refused"),
        ("SSL error: certificate verify failed", "tls_failed"),
        ('root certificate file "/root/.postgresql/root.crt" does not exist', "tls_failed"),
        ("server does not support SSL, but SSL was required", "tls_failed"),
        ('FATAL:  sorry, too many clients already', "no_connection_free"),
        ("FATAL:  the database system is not yet accepting connections", "server_starting"),
    ],
)  # fmt: skip
def test_a_cause_is_recognized_by_what_libpq_says(said: str, name: str) -> None:
    """Also where a message mentions several."""
    error = DatabaseUnreachable("the database cannot be reached")
    error.__cause__ = psycopg.OperationalError(said)
    assert connecting.refusal(error).finding == name


def test_every_cause_says_what_to_do() -> None:
    """No cause is without a remedy, and all names differ."""
    assert all(cause.remedy for cause in connecting.CAUSES)
    assert len({cause.name for cause in connecting.CAUSES}) == len(connecting.CAUSES)


# ------------------------------------------------------------------- what only a client sees


def test_an_old_server_is_found() -> None:
    """Postgres 14 can still be connected to."""

    class Info:
        server_version = 140_009

        @staticmethod
        def parameter_status(_: str) -> str:
            return "14.9"

    class Old:
        info = Info

    old: Any = Old
    context = CheckContext(Settings(database_url="postgresql://x"), old)
    [found] = server.CHECKS[0].find(context)
    assert found.finding == "server_old"


@pytest.mark.parametrize(
    ("seconds", "is_found"), [(-10.0, True), (10.0, True), (0.5, False), (-0.5, False)]
)
def test_a_clock_that_differs_is_found(
    here: Here, monkeypatch: pytest.MonkeyPatch, seconds: float, is_found: bool
) -> None:
    """In either direction, by more than 2 s."""
    real = server.host_time
    monkeypatch.setattr(server, "host_time", lambda: real() + seconds)
    found = doctor(here, "clock_difference")
    assert found.keys() == ({"clock_difference"} if is_found else set())
    if is_found:
        word = "ahead of" if seconds > 0 else "behind"
        assert f"10.0 s {word} the database" in found["clock_difference"]["sentence"]


@contextlib.contextmanager
def far_away(url: str, delay: float) -> Iterator[str]:
    """Put a line that delays the bytes between a client and the server."""
    listener = socket.create_server(("127.0.0.1", 0))
    with psycopg.connect(url) as connection:
        place = Path(connection.info.host) / f".s.PGSQL.{connection.info.port}"
        address = (connection.info.host, connection.info.port)

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(delay)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                if place.is_absolute():
                    target = socket.socket(socket.AF_UNIX)
                    target.connect(str(place))
                else:
                    target = socket.create_connection(address)
                for pair in ((client, target), (target, client)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield make_conninfo(url, host="127.0.0.1", port=listener.getsockname()[1])
    finally:
        listener.close()


@pytest.mark.parametrize(("delay", "level"), [(0.06, "warning"), (0.015, "note")])
def test_a_database_that_is_far_away_is_found(database_url: str, delay: float, level: str) -> None:
    """From 20 ms on it is a note, from 100 ms on a warning."""
    with far_away(database_url, delay) as url:
        answer = peers("doctor", "--json", "slow_connection", url=url)
    assert findings(answer)["slow_connection"]["level"] == level


@contextlib.contextmanager
def pgbouncer(url: str, mode: str) -> Iterator[str]:
    """Run a PgBouncer before the database."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with psycopg.connect(url) as connection:
        info = connection.info
        host, place = info.host, f"host={info.host} port={info.port} user={info.user}"
    # it refuses to run as root, and others cannot look into pytest's own folders
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        config = Path(name) / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = {place}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            f"server_round_robin = {int(mode == 'transaction')}\n"
        )
        owner = Path(host).owner() if host.startswith("/") else "nobody"
        started = subprocess.Popen(
            [PGBOUNCER, str(config)], user=owner if os.geteuid() == 0 else None,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        pooled = make_conninfo(url, host="127.0.0.1", port=port)
        try:
            until(lambda: _replies(pooled), "pgbouncer")
            yield pooled
        finally:
            started.terminate()
            started.wait()


def _replies(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_pooler_in_transaction_mode_is_found(database_url: str) -> None:
    """Unless peers listen elsewhere."""
    with pgbouncer(database_url, "transaction") as url:
        answer = peers("doctor", "--json", url=url)
        assert findings(answer).keys() == {"pooler"}
        listening = {"PEERS_LISTEN_URL": database_url}
        assert findings(peers("doctor", "--json", url=url, env=listening)) == {}


def test_a_wrong_address_for_notifications_is_found(
    databases: Databases, database_url: str
) -> None:
    """It cannot be reached, or leads to another database."""
    with pgbouncer(database_url, "transaction") as url, databases.empty() as other:
        for listen_url, name in (("host=127.0.0.1 port=1", "listen_url"), (other, "notification")):
            answer = peers("doctor", "--json", url=url, env={"PEERS_LISTEN_URL": listen_url})
            assert findings(answer).keys() == {name}


def test_a_pooler_in_session_mode_is_well(database_url: str) -> None:
    """Notifications come through."""
    with pgbouncer(database_url, "session") as url:
        assert findings(peers("doctor", "--json", url=url)) == {}


def test_a_pooler_in_statement_mode_is_found(database_url: str) -> None:
    """Nothing works there."""
    with pgbouncer(database_url, "statement") as url:
        answer = peers("doctor", "--json", url=url)
    assert (answer.code, set(findings(answer))) == (UNREACHABLE, {"pooler_refused"})


def test_a_refused_parameter_is_found(database_url: str) -> None:
    """PgBouncer knows few startup parameters."""
    with pgbouncer(database_url, "session") as url:
        answer = peers("doctor", "--json", url=make_conninfo(url, options="-c geqo=off"))
    assert (answer.code, set(findings(answer))) == (UNREACHABLE, {"pooler_refused"})


def test_a_notification_that_takes_long_is_found(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, a round trip is far below half a second."""
    assert doctor(here, "notification") == {}
    monkeypatch.setattr(notifications, "_SLOW", 0.0)
    assert doctor(here, "notification").keys() == {"notification"}


def test_every_finding_of_a_client_is_tested() -> None:
    """Its name is in this file."""
    text = Path(__file__).read_text()
    names = {name for check in CLIENT_CHECKS for name in check.finds}
    names |= {cause.name for cause in connecting.CAUSES}
    names |= {connecting.BAD_CONFIGURATION, connecting.UNREACHABLE, examination.CONNECTION_LOST}
    assert {name for name in names if f'"{name}"' not in text} == set()
