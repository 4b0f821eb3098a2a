"""A submission whose connection breaks exists once, or not at all, and its caller knows which."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

import peers
from peers.client import transaction
from peers.client.transaction import Abandoned, LazyConnection
from peers.database.connection import connect
from peers.database.rows import Claimed
from peers.errors import BadTask, DatabaseUnreachable, PeerLost
from peers.peer import request_verbs
from tests.support.commits import CommitProxy, Cut
from tests.support.server import Connection
from tests.support.world import Peer, rows, submit

GRAPH = {"nodes": [{"name": "1", "kind": "child"}, {"name": "2", "kind": "child", "after": ["1"]}]}


@pytest.fixture
def proxy(database_url: str, tmp_path: Path) -> Iterator[CommitProxy]:
    """A way to the database that can be cut."""
    made = CommitProxy(tmp_path, database_url)
    yield made
    made.close()


@pytest.fixture
def handler(db: Connection) -> tuple[UUID, Claimed]:
    """A running task, and the peer that has its lease."""
    submit(db)
    peer = Peer.join(db, "a")
    [claim] = peer.claim()
    return peer.id, Claimed(claim.task_id, claim.token, claim.attempt, "a", b"{}", None, 100)


def connected(url: str) -> LazyConnection:
    """As a peer's thread has it."""
    return LazyConnection(lambda: connect(url, application_name="test"))


def children(db: Connection) -> list[int]:
    """What exists of the submission."""
    return [each["id"] for each in rows(db, "select id from peers.task where kind = 'child'")]


WAYS: dict[str, tuple[Any, Callable[[Any], list[int]]]] = {
    "submit": ({"kind": "child"}, lambda answer: [answer]),
    "submit_graph": (GRAPH, lambda answer: list(answer["tasks"].values())),
}


@pytest.mark.parametrize("verb", WAYS)
@pytest.mark.parametrize("cuts", [[Cut.BEFORE], [Cut.DURING], [Cut.BEFORE, Cut.BEFORE, Cut.AFTER]])
def test_a_commit_that_is_cut_off_submits_once(
    db: Connection, proxy: CommitProxy, handler: tuple[UUID, Claimed], verb: str, cuts: list[Cut]
) -> None:
    """Lost before it arrived it is made again, lost after it took place it is known: the handler
    gets ids that exist, and nothing exists besides.
    """
    proxy.cuts = iter(cuts)
    connection, (document, ids) = connected(proxy.url), WAYS[verb]
    answer = request_verbs.execute(connection, *handler, verb, json.dumps(document).encode())
    connection.close()
    assert sorted(ids(json.loads(answer))) == children(db)
    assert next(proxy.cuts, None) is None, "every cut took place"


@pytest.mark.parametrize(
    "cuts", [[Cut.BEFORE], [Cut.DURING], [Cut.AFTER], [Cut.BEFORE, Cut.BEFORE, Cut.AFTER]]
)
def test_a_submission_without_a_peer_is_made_once_too(
    db: Connection, proxy: CommitProxy, monkeypatch: pytest.MonkeyPatch, cuts: list[Cut]
) -> None:
    """An application's own submit() is no worse off than a handler's."""
    monkeypatch.setenv("PEERS_DATABASE_URL", proxy.url)
    proxy.cuts = iter(cuts)
    assert [peers.submit("child")] == children(db)
    assert next(proxy.cuts, None) is None, "every cut took place"


def test_a_submission_that_the_database_refuses_leaves_a_connection_that_works(
    db: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction is rolled back, and the next submission uses the same connection."""
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)
    with pytest.raises(peers.BadGraph):
        peers.submit("child", depends_on=[4711])
    pid = "select pid from pg_stat_activity where application_name = 'peers client'"
    sessions = rows(db, pid)
    assert [peers.submit("child")] == children(db)
    assert rows(db, pid) == sessions


def test_a_submission_that_meets_a_deadlock_is_tried_again(
    db: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try is the victim, the second one succeeds."""
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)
    make_the_first_try_a_victim(db, "40P01")
    assert [peers.submit("child")] == children(db)


def make_the_first_try_a_victim(db: Connection, sqlstate: str) -> None:
    """Make the first INSERT of a task fail as in a deadlock."""
    db.execute("create sequence public.tries")
    db.execute(
        f"""create function be_a_victim() returns trigger language plpgsql as $$
        begin
            if nextval('public.tries') = 1 then
                raise exception 'a victim' using errcode = '{sqlstate}';
            end if;
            return null;
        end $$"""
    )
    db.execute("create trigger v after insert on peers.task execute function be_a_victim()")


@pytest.mark.parametrize("fate", ["committed", "aborted"])
def test_without_the_question_the_same_cut_is_seen(
    db: Connection,
    proxy: CommitProxy,
    handler: tuple[UUID, Claimed],
    monkeypatch: pytest.MonkeyPatch,
    fate: str,
) -> None:
    """Whoever guesses instead of asking submits twice, or answers ids that do not exist."""
    monkeypatch.setattr(transaction, "await_end", lambda *_: fate)
    proxy.cuts = iter([Cut.AFTER if fate == "aborted" else Cut.BEFORE])
    connection = connected(proxy.url)
    answer = request_verbs.execute(connection, *handler, "submit", b'{"kind": "child"}')
    connection.close()
    assert [json.loads(answer)] != children(db)


def test_a_fate_that_nobody_can_tell_is_told(
    db: Connection,
    proxy: CommitProxy,
    handler: tuple[UUID, Claimed],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the transaction is neither committed nor aborted nothing is tried again."""
    monkeypatch.setattr(transaction, "await_end", lambda *_: "in progress")
    proxy.cuts = iter([Cut.AFTER])
    connection = connected(proxy.url)
    with pytest.raises(DatabaseUnreachable, match="unknown whether it took effect"):
        request_verbs.execute(connection, *handler, "submit", b'{"kind": "child"}')
    connection.close()
    assert proxy.commits == 1
    assert len(children(db)) == 1


def test_a_connection_that_breaks_every_time_ends_in_an_error(
    db: Connection, proxy: CommitProxy, handler: tuple[UUID, Claimed]
) -> None:
    """The tries are bounded, and nothing was committed."""
    proxy.cuts = itertools.repeat(Cut.BEFORE)
    connection = connected(proxy.url)
    with pytest.raises(DatabaseUnreachable, match="nothing was committed"):
        request_verbs.execute(connection, *handler, "submit", b'{"kind": "child"}')
    connection.close()
    assert children(db) == []


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
def test_a_deadlock_of_a_handlers_submission_is_tried_again(
    db: Connection, database_url: str, handler: tuple[UUID, Claimed], sqlstate: str
) -> None:
    """The first try is the victim, the second one succeeds."""
    make_the_first_try_a_victim(db, sqlstate)
    connection = connected(database_url)
    answer = request_verbs.execute(connection, *handler, "submit_graph", json.dumps(GRAPH).encode())
    connection.close()
    assert sorted(json.loads(answer)["tasks"].values()) == children(db)


def test_without_its_lease_a_handler_submits_nothing(
    db: Connection, database_url: str, handler: tuple[UUID, Claimed]
) -> None:
    """Neither under another token nor for another peer nor after the task went back."""
    peer_id, task = handler
    connection = connected(database_url)
    others = [(peer_id, task._replace(token=uuid4())), (uuid4(), task)]
    for who in others:
        with pytest.raises(PeerLost, match=f"task {task.task_id} .* nothing was committed"):
            request_verbs.execute(connection, *who, "submit", b'{"kind": "child"}')
    Peer(db, peer_id).release((task.task_id, task.token))
    with pytest.raises(PeerLost):
        request_verbs.execute(connection, *handler, "submit", b'{"kind": "child"}')
    connection.close()
    assert children(db) == []


def test_a_child_may_wait_for_the_task_that_submits_it(
    db: Connection, database_url: str, handler: tuple[UUID, Claimed]
) -> None:
    """The lock on the handler's own row is in nobody's way."""
    peer_id, task = handler
    connection = connected(database_url)
    document = json.dumps({"kind": "child", "depends_on": [task.task_id]}).encode()
    child = json.loads(request_verbs.execute(connection, *handler, "submit", document))
    connection.close()
    assert Peer(db, peer_id).complete((task.task_id, task.token)) == {}
    state = rows(db, "select state::text from peers.task where id = %s", child)
    assert state == [{"state": "ready"}]


def test_what_was_cut_stays_so_until_it_is_renewed(database_url: str) -> None:
    """A try that meets a lost connection hangs up: that must not undo the cut and try again."""
    connection = connected(database_url)
    connection.get()
    connection.cut()
    connection.close()
    with pytest.raises(Abandoned):
        connection.get()
    connection.renew()
    assert connection.get().execute("select 1").fetchall() == [(1,)]
    connection.close()


def test_a_refused_submission_is_over(
    db: Connection, database_url: str, handler: tuple[UUID, Claimed]
) -> None:
    """Nobody waits for the end of its transaction."""
    connection = connected(database_url)
    with pytest.raises(BadTask):
        request_verbs.execute(connection, *handler, "submit", b'{"kind": ""}')
    assert connection.transaction is None
    connection.close()
    assert children(db) == []
