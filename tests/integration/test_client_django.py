"""Django's connection as a target: a task commits and rolls back with the application's rows."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import conninfo_to_dict

import peers

django = pytest.importorskip("django", reason="Django is not installed")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.server import Connection


@peers.task("test.mail")
def mail(to: str) -> str:
    """Return the address."""
    return to


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    """django.db.connection, of a configured Django."""
    from django.conf import settings
    from django.db import connection, connections

    if not settings.configured:
        settings.configure(DATABASES={}, USE_TZ=True, TIME_ZONE="Asia/Kathmandu")
        django.setup()
    parts = conninfo_to_dict(database_url)
    connections.databases["default"] = connections.databases.get("default", {}) | {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts["dbname"],
        "USER": parts.get("user", ""),
        "HOST": parts.get("host", ""),
        "PORT": str(parts.get("port", "")),
        "PASSWORD": parts.get("password", ""),
        "ATOMIC_REQUESTS": False, "AUTOCOMMIT": True, "CONN_MAX_AGE": 0, "OPTIONS": {},
        "CONN_HEALTH_CHECKS": False, "TIME_ZONE": None,
        "TEST": {"NAME": None, "CHARSET": None, "COLLATION": None, "MIGRATE": True, "MIRROR": None},
    }  # fmt: skip
    yield connection
    connection.close()
    del connections["default"]


def kinds(db: Connection) -> list[str]:
    """What is committed."""
    return [row["kind"] for row in db.execute("select kind from peers.task order by id")]


def test_inside_atomic(connection: Any, db: Connection) -> None:
    """The task exists once the block has ended, and not at all after an exception."""
    from django.db import transaction

    with transaction.atomic():
        task_id = mail.submit_in(connection, "a@example.org")
        assert peers.get_in(connection, task_id).args == {"to": "a@example.org"}
        assert kinds(db) == []
    assert kinds(db) == ["test.mail"]

    def fail() -> None:
        with transaction.atomic():
            mail.submit_in(connection, "b@example.org")
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert kinds(db) == ["test.mail"]


def test_every_operation(connection: Any) -> None:
    """Graphs too, and times come back whatever Django's time zone is."""
    from django.db import transaction

    with transaction.atomic(), peers.graph(connection) as graph:
        first = graph.add(mail, to="a")
        second = graph.add(mail.after(first), "b")
    assert [task.id for task in peers.find_in(connection, kind="test.mail")] == [
        second.id,
        first.id,
    ]
    assert peers.get_in(connection, first.id).created_at.utcoffset() is not None
    assert peers.cancel_in(connection, first.id) == "cancelled"
    assert "cancelled" in peers.explain_in(connection, second.id)


def test_outside_of_a_block_it_is_committed_at_once(connection: Any, db: Connection) -> None:
    """As every statement of Django's is; percent signs are data."""
    task_id = peers.submit_in(connection, "100% %s", {"%(document)s": "%"})
    assert kinds(db) == ["100% %s"]
    assert peers.get_in(connection, task_id).args == {"%(document)s": "%"}


def test_the_first_use_of_a_connection_may_be_a_submission(
    connection: Any, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Django has not loaded the backend of a connection that was never used."""
    monkeypatch.delitem(sys.modules, "django.db.backends.base.base", raising=False)
    mail.submit_in(connection, "a@example.org")
    assert kinds(db) == ["test.mail"]


def test_a_refusal_is_one_of_ours(connection: Any) -> None:
    """Although Django wraps the driver's error."""
    with pytest.raises(peers.BadGraph, match="there is no task 999"):
        mail.options(depends_on=[999]).submit_in(connection, "a")


@pytest.mark.usefixtures("connection")
def test_another_database_is_refused() -> None:
    """SQLite has no peers."""
    from django.db import connections

    connections.databases["other"] = connections.databases["default"] | {
        "ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:",
    }  # fmt: skip
    with pytest.raises(peers.BadArgument, match="Postgres, not to sqlite"):
        mail.submit_in(connections["other"], "a")
    connections["other"].close()
