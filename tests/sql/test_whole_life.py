"""A task's whole life in databases as people have them: encodings, settings, publications."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

import peers
from peers.database import functions, schema
from peers.database.connection import connect
from peers.errors import ConfigError
from peers.types import KindPolicy
from tests.support import verbs
from tests.support.server import open_connection
from tests.support.world import (
    Peer,
    World,
    advance,
    problems,
    promote,
    rows,
    run,
    state,
    submit,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import LiteralString

    from peers.database.deadlines import BoundedConnection
    from tests.support.server import Connection as Session
    from tests.support.server import Databases


def live(session: Session, word: str = "Zoë") -> None:
    """Every transition of a task, each verb once."""
    peer, lost = Peer.join(session), Peer.join(session, "b")
    parent = submit(session, args={"name": word}, idempotency_key="k")
    child = submit(session, "b", depends_on=[parent])
    later = value(session, "select peers.submit('a', scheduled_at => peers.now() + interval '5 s')")
    failing, dying = submit(session), submit(session, max_attempts=1)
    claims = {claim.task_id: claim for claim in peer.claim()}
    assert peer.complete(claims[parent], result={"name": word}) == {}
    assert peer.fail(claims[failing], retry_in=1, error_message=f"no such {word}") == {}
    assert peer.fail(claims[dying], error_message="no good") == {}
    [lost_claim] = lost.claim()
    assert lost_claim.task_id == child
    assert rows(session, "select result from peers.parent_results(%s)", child) == [
        {"result": {"name": word}}
    ]
    run(session, "select peers.start_cooldown('a', '5 s')")
    for _ in range(3):
        peer.advance_steadily(10)
    assert [each["task_id"] for each in peer.reclaim()] == [child]
    assert promote(session) == 2
    run(session, "select peers.retry(%s)", dying)
    run(session, "select peers.change(%s, priority => 1)", later)
    assert peer.claim()[0].task_id == later
    peer.reconcile()
    run(session, "select peers.cancel(id) from peers.task where state in ('ready', 'scheduled')")
    for task_id in (parent, child, later, failing, dying):
        assert value(session, "select peers.explain(%s)", task_id)
    for view in ("queue_status", "dead_letter", "peer_status", "running"):
        rows(session, f"select x::text from peers.{view} x")
    assert state(session, parent) == "completed"
    advance(session, "2 days")
    assert problems(session) == []
    assert value(session, "select deleted from peers.prune('1 day')") == 5
    peer.leave()


PLAIN = "lc_collate 'C' lc_ctype 'C' template template0"
SETTINGS = {
    "German": ["datestyle = 'German'", "intervalstyle = 'iso_8601'", "bytea_output = 'escape'",
               "extra_float_digits = 0", "timezone = 'Asia/Kathmandu'"],
    "SQL": ["datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'", "lc_messages = 'C'",
            "default_transaction_isolation = 'serializable'", "standard_conforming_strings = on"],
}  # fmt: skip
DATABASES: dict[str, tuple[LiteralString, list[str]]] = {
    "LATIN1": (f"encoding 'LATIN1' {PLAIN}", []),
    "KOI8R": (f"encoding 'KOI8R' {PLAIN}", []),
    "UTF8 with collation C": (f"encoding 'UTF8' {PLAIN}", []),
    "Turkish": ("encoding 'UTF8' locale_provider icu icu_locale 'tr' template template0", []),
    "German settings": ("", SETTINGS["German"]),
    "SQL settings": ("", SETTINGS["SQL"]),
}
HOSTILE = "ß € Ж \0 \udcff 😀"


@pytest.fixture(params=DATABASES)
def odd_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """The URL of a database that is not as the others, without the schema."""
    options, settings = DATABASES[request.param]
    with ExitStack() as stack:
        try:
            url = stack.enter_context(databases.empty(options))
        except psycopg.errors.FeatureNotSupported as error:
            pytest.skip(f"this server makes no such database: {error}")
        with open_connection(url) as connection:
            name = connection.info.dbname
            for setting in settings:
                run(connection, f'alter database "{name}" set {setting}')
        yield url


def test_a_whole_life_in_a_database_as_people_have_them(odd_url: str) -> None:
    """Whatever its encoding, collation and settings: all verbs do their work, in SQL and Python."""
    with connect(odd_url, application_name="test") as connection:
        schema.migrate(connection)
        schema.migrate(connection)
        live_in_python(connection)
    with open_connection(odd_url) as session:
        run(session, "set default_transaction_isolation = 'read committed'")
        run(session, "set datestyle = 'ISO'; set intervalstyle = 'postgres'")  # psycopg's needs
        run(session, "set client_encoding = 'UTF8'")
        server_encoding = session.info.parameter_status("server_encoding")
        live(session, word="Жуи" if server_encoding == "KOI8R" else "Zoë")


def live_in_python(connection: BoundedConnection) -> None:
    """The same in Python; what the database cannot hold fails its own task, in words."""
    policies = [KindPolicy("I", backoff_base=0.5), KindPolicy("i", max_attempts=1)]
    peer = functions.join(connection, "h", 1, {"default": 8}, policies, timedelta(seconds=30))
    [(first,)] = connection.execute(
        "select peers.submit('I', '{\"n\": 1.5}', timeout => %s)", [timedelta(seconds=2.5)]
    ).fetchall()
    [(second,)] = connection.execute(
        "select peers.submit('i', depends_on => array[%s::bigint])", [first]
    ).fetchall()
    connection.execute(
        "select peers.submit('Nobody', scheduled_at => %s)", [datetime(2026, 1, 1, tzinfo=UTC)]
    )
    [task] = verbs.claim(connection, peer, "default", 5)
    assert (task.task_id, task.args, task.timeout) == (first, b'{"n": 1.5}', 2.5)
    assert verbs.complete(connection, peer, [task], {"n": 1.5}) == []
    assert functions.parent_results(connection, second)[0].result == b'{"n": 1.5}'
    [task] = verbs.claim(connection, peer, "default", 5)
    failure = {"task_id": second, "token": task.token, "error_type": f"E{HOSTILE}"}
    failure |= {"error_message": HOSTILE, "traceback": HOSTILE, "retry_in": float("inf")}
    assert verbs.fail(connection, peer, [failure]) == []
    [(message,)] = connection.execute("select error_message from peers.dead_letter").fetchall()
    for character, escape in (("€", "\\u20ac"), ("\0", "\\x00"), ("\udcff", "\\udcff")):
        assert (character in message) != (escape in message)
    assert "Dead" in peers.explain_in(connection, second)
    assert functions.unrunnable(connection)[0].oldest_ready_at.tzinfo is not None
    assert 0 < functions.start_cooldown(connection, "x", timedelta(seconds=1.5), HOSTILE) <= 1.5
    assert functions.cooldown_left(connection, "x") > 0
    assert functions.check(connection) == []
    peers.discard_in(connection, second)
    functions.leave(connection, peer)
    connection.execute("select peers.cancel(id) from peers.task")
    assert functions.prune(connection, timedelta(0)).deleted == 3


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "WIN1252", "EUC_JP"])
def test_an_encoding_that_need_not_be_readable_is_refused(
    databases: Databases, encoding: LiteralString
) -> None:
    """Where one row could stop every claim, peers migrate says so, and how to make a database."""
    with (
        databases.empty(f"encoding '{encoding}' {PLAIN}") as url,
        connect(url, application_name="test") as connection,
    ):
        with pytest.raises(ConfigError, match=f"encoding {encoding}.*createdb --encoding UTF8"):
            schema.migrate(connection)
        assert schema.installed_version(connection) is None


def test_a_publication_of_all_tables_hinders_nothing(world: World) -> None:
    """Each statement of each verb can be published, and what is decoded names the tables."""
    session = world.db
    if value(session, "show wal_level") != "logical":
        pytest.skip("the server that PEERS_TEST_DSN names decodes nothing (wal_level)")
    run(session, "create publication everything for all tables")
    run(session, "select pg_create_logical_replication_slot('peers_test', 'pgoutput', true)")
    run(session, "set synchronous_commit = on")  # what is not flushed is not decoded
    live(session)
    decoded = value(
        session,
        "select count(*) from pg_logical_slot_get_binary_changes('peers_test', null, null,"
        " 'proto_version', '1', 'publication_names', 'everything') where get_byte(data, 0)"
        " in (ascii('I'), ascii('U'), ascii('D'))",
    )
    assert decoded > 50
    run(session, "select pg_drop_replication_slot('peers_test')")
