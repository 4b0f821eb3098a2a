"""docs/howto/least-privilege.md: each login may do what the page says, and no more."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.cli import PROJECT
from tests.support.world import Peer, run, submit

if TYPE_CHECKING:
    from tests.support.server import Connection

PAGE = (PROJECT / "docs" / "howto" / "least-privilege.md").read_text()
LOGINS = ("shop_app", "shop_web", "shop_peers", "alice", "dashboard")
JOIN = "select peers.join('h', 1, '{\"default\": 1}', '[]', '30 s', peers.contract_version())"
ACTS = {
    "submit": "select peers.submit('a')",
    "insert": "insert into peers.task (kind) values ('a')",
    "graph": 'select * from peers.submit_graph(\'[{"name": "x", "kind": "a"}]\')',
    "read states": "select id, state from peers.task",
    "read args": "select args, result from peers.task",
    "read views": "select * from peers.dead_letter, peers.queue_status, peers.alert",
    "explain": "select peers.explain(%(waiting)s)",
    "join": JOIN,
    "cancel": "select peers.cancel(%(waiting)s)",
    "retry": "select peers.retry(%(dead)s)",
    "pause": "select peers.pause('default')",
    "check": "select * from peers.check()",
    "set a limit": "insert into peers.limit (name, kind, max_running) values ('l', 'a', 1)",
    "add a schedule": "insert into peers.schedule (name, kind, cron) values ('s', 'a', '@daily')",
    "update a task": "update peers.task set priority = 1",
    "move the clock": "insert into peers.clock (shift) values ('1 s')",
}
SUBMITS = {"submit", "insert", "graph", "read states", "add a schedule"}
READS = {"read states", "read args", "read views", "explain"}
MAY = {
    "shop_app": SUBMITS,
    "shop_web": SUBMITS | READS,
    "shop_peers": {"submit", "graph", "join"},
    "alice": READS | {
        "submit", "graph", "cancel", "retry", "pause", "check", "set a limit", "add a schedule",
    },
    "dashboard": READS,
}  # fmt: skip


def statements(logins: Mapping[str, str]) -> str:
    """Return the SQL of the page that creates the logins, under these names."""
    blocks = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    [found] = [str(block) for block in blocks if "shop_app" in block]
    return re.sub(rf"\b({'|'.join(logins)})\b", lambda match: logins[match[0]], found)


@contextmanager
def logins(db: Connection) -> Iterator[dict[str, str]]:
    """Create the logins of the page for a `with` block, and yield their names on this server.

    Roles belong to the whole server, which may run other tests at the same time.
    """
    names = {login: f"{login}_{secrets.token_hex(4)}" for login in LOGINS}
    db.execute(statements(names).encode())
    try:
        yield names
    finally:
        for login in names.values():
            run(db, f"drop owned by {login}")
            run(db, f"drop role {login}")


def allowed(db: Connection, login: str, ids: dict[str, int]) -> set[str]:
    """Return what this login may do, by doing it in transactions that are rolled back."""
    found = set()
    for name, statement in ACTS.items():
        with db.transaction(force_rollback=True):
            run(db, f"set local role {login}")
            try:
                db.execute(statement.encode(), ids if "%(" in statement else None)
            except psycopg.errors.InsufficientPrivilege:
                continue
            except psycopg.Error as error:
                if (error.sqlstate or "") == "PE005":  # refused, whoever asks
                    continue
                raise
        found.add(name)
    return found


def test_each_login_may_do_what_the_page_says_and_no_more(db: Connection) -> None:
    """What is not named is denied by the database."""
    peer = Peer.join(db)
    dead = submit(db)
    peer.fail(*peer.claim(), reject=True)
    ids = {"dead": dead, "waiting": submit(db)}
    with logins(db) as names:
        assert {login: allowed(db, name, ids) for login, name in names.items()} == MAY


def test_a_login_that_submits_does_not_stay_in_a_transaction(db: Connection) -> None:
    """The page sets a time limit for it."""
    query = "select rolname, rolconfig from pg_roles where rolname = any (%s)"
    with logins(db) as names:
        found = db.execute(query, ([names["shop_app"], names["shop_web"]],)).fetchall()
    assert len(found) == 2
    assert all("idle_in_transaction_session_timeout=1min" in json.dumps(one) for one in
               (each["rolconfig"] for each in found))  # fmt: skip


@pytest.mark.parametrize("role", ["submitter", "worker", "operator", "reader"])
def test_the_page_names_every_role(role: str) -> None:
    """A fifth role would need a row."""
    sql = (PROJECT / "sql" / "90_roles.sql").read_text()
    assert set(re.findall(r"create role peers_(\w+)", sql)) == {
        "submitter", "worker", "operator", "reader"
    }  # fmt: skip
    assert f"| `peers_{role}` |" in PAGE
