"""Submitting from Python: what is checked here, and what reaches the database by every way."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy import URL, Engine, create_engine, select
from sqlalchemy.orm import Session

import peers
from peers import context
from peers.client.transaction import LazyConnection
from peers.client.transport import perform_for_handler
from peers.database import tables
from peers.database.connection import connect
from tests.support.current import inside_handler
from tests.support.world import Peer, task_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.server import Connection


@peers.task("test.thumb", queue="media", priority=7, timeout=5)
def thumb(path: str, width: int = 256, when: datetime | None = None) -> dict[str, object]:
    """A handler with types to be checked."""
    return {"path": path, "width": width, "when": when}


@peers.task("test.fetch")
async def fetch(url: str, **headers: str) -> None:
    """An async handler that takes further names."""


def _begin(connection: Any) -> str:
    """Return the id of a transaction, as a peer does."""
    [[transaction]] = connection.execute("select pg_current_xact_id()::text")
    return str(transaction)


def add_to_graph(*args: Any, **options: Any) -> None:
    """Add one task to a graph."""
    with peers.graph() as g:
        g.add(*args, **options)


def sqlalchemy_url(url: str) -> URL:
    """The same database, as SQLAlchemy names it."""
    return URL.create(
        "postgresql+psycopg", query={k: str(v) for k, v in conninfo_to_dict(url).items()}
    )


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An application's own engine."""
    engine = create_engine(sqlalchemy_url(database_url))
    yield engine
    engine.dispose()


# ------------------------------------------------------------------------------- what is submitted


@pytest.mark.usefixtures("configured")
def test_many_tasks_are_submitted_in_one_statement(db: Connection) -> None:
    """The ids come in the order of the args, and the handler's values and the options hold."""
    parent = peers.submit("elsewhere")
    ids = peers.submit_many(
        "test.thumb",
        [{"path": str(n), "width": n} for n in range(2000)],
        priority=3, timeout=2, max_attempts=4, delay=0, metadata={"m": 1}, depends_on=[parent],
    )  # fmt: skip
    assert ids == sorted(ids)
    found = db.execute(
        "select id, args, queue, priority, max_attempts, extract(epoch from timeout)::int as t,"
        " metadata, pending_parents, created_xid::text as x from peers.task where id = any (%s)"
        " order by id",
        (ids,),
    ).fetchall()
    assert [row["args"] for row in found] == [{"path": str(n), "width": n} for n in range(2000)]
    del found[0]["id"], found[0]["args"]
    assert {**found[0], "x": ""} == {
        "queue": "media", "priority": 3, "max_attempts": 4, "t": 2, "metadata": {"m": 1},
        "pending_parents": 1, "x": "",
    }  # fmt: skip
    assert len({row["x"] for row in found}) == 1
    assert peers.submit_many("x", []) == []


@pytest.mark.usefixtures("configured")
def test_many_tasks_are_submitted_together_or_not_at_all(db: Connection) -> None:
    """The errors are those of `submit`."""
    with pytest.raises(peers.ArgsInvalid, match="width"):
        peers.submit_many("test.thumb", [{"path": "a"}, {"path": "b", "width": "wide"}])
    with pytest.raises(peers.BadTask, match="idempotency_key"):
        peers.submit_many("x", [{}, {}], idempotency_key="k")
    with pytest.raises(peers.BadTask, match="kind"):
        peers.submit_many("x" * 201, [{}])
    with pytest.raises(peers.BadGraph):
        peers.submit_many("x", [{}], depends_on=[4711])
    with pytest.raises(peers.PeersError):
        peers.submit_many("x", [{}, {}], graph=4711)
    assert db.execute("select from peers.task").fetchall() == []


def test_many_tasks_inside_the_applications_transaction(engine: Engine, db: Connection) -> None:
    """They exist once it commits."""
    with Session(engine) as session:
        ids = peers.submit_many_in(session, "x", [{"n": 1}, {"n": 2}])
        assert db.execute("select from peers.task").fetchall() == []
        session.commit()
    assert [task_row(db, each)["args"] for each in ids] == [{"n": 1}, {"n": 2}]


def test_a_task_is_still_a_function() -> None:
    """Called, it runs here and now, and it keeps its documentation."""
    assert thumb("a", width=1) == {"path": "a", "width": 1, "when": None}
    assert (thumb.kind, fetch.kind) == ("test.thumb", "test.fetch")
    assert thumb.__doc__ == "A handler with types to be checked."


@pytest.mark.usefixtures("configured")
def test_submit_uses_what_the_decorator_says(db: Connection) -> None:
    """Queue and priority are the handler's; what holds for plain SQL too is left to the kind."""
    row = task_row(db, thumb.submit("a.png", width=3))
    assert (row["kind"], row["queue"], row["priority"]) == ("test.thumb", "media", 7)
    assert row["args"] == {"path": "a.png", "width": 3}
    assert (row["max_attempts"], row["timeout"], row["state"]) == (None, None, "ready")
    row = task_row(db, peers.submit("test.thumb", {"path": "b"}, priority=0))
    assert (row["queue"], row["priority"]) == ("media", 0)


@pytest.mark.usefixtures("configured")
def test_options_are_bound_to_a_copy(db: Connection) -> None:
    """Every option arrives, and the task without options stays as it was."""
    parent = peers.submit("elsewhere")
    bound = thumb.options(
        queue="slow",
        priority=-5,
        delay=timedelta(hours=1),
        max_attempts=9,
        timeout=1.5,
        depends_on=[parent],
        on_parent_failure="run",
        idempotency_key="once",
        metadata={"order": 7},
    )
    task_id = bound.submit(path="x")
    assert bound.submit(path="y") == task_id
    row = task_row(db, task_id)
    assert (row["queue"], row["priority"], row["max_attempts"]) == ("slow", -5, 9)
    assert row["timeout"] == timedelta(seconds=1.5)
    assert row["scheduled_at"] - row["created_at"] > timedelta(minutes=59)
    assert (row["state"], row["metadata"]) == ("blocked", {"order": 7})
    [edge] = db.execute("select parent_id, on_parent_failure from peers.dependency").fetchall()
    assert edge == {"parent_id": parent, "on_parent_failure": "run"}
    assert task_row(db, thumb.submit("z"))["queue"] == "media"


@pytest.mark.usefixtures("configured")
def test_values_that_json_lacks_travel_as_text(db: Connection) -> None:
    """Times, paths and dataclasses become what the handler's annotations turn back."""

    @dataclass
    class Point:
        x: int

    when = datetime(2026, 11, 23, 12, tzinfo=UTC)
    args = task_row(db, thumb.submit("a", when=when))["args"]
    assert thumb.handler.load_args(args)["when"] == when
    args = task_row(db, peers.submit("any", {"p": Path("/srv"), "at": Point(1)}))["args"]
    assert args == {"p": "/srv", "at": {"x": 1}}


MEBIBYTE = 1 << 20
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - on purpose


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: thumb.submit(width=3), peers.ArgsInvalid, r"args\.path: missing"),  # type: ignore[call-arg]
        (lambda: thumb.submit(path=3), peers.ArgsInvalid, r"args\.path: .*str"),  # type: ignore[arg-type]
        (lambda: thumb.submit("a", 1, None, 4), peers.ArgsInvalid, "too many positional"),  # type: ignore[call-arg]
        (lambda: thumb.submit("a", path="b"), peers.ArgsInvalid, 'got "path" twice'),  # type: ignore[misc]
        (lambda: thumb.submit("x" * MEBIBYTE), peers.ArgsInvalid, "at most 1 MiB.*Store"),
        (lambda: peers.submit("q", {"x": math.nan}), peers.ArgsInvalid, "JSON has no nan"),
        (lambda: peers.submit("q", {"x": object()}), peers.ArgsInvalid, "written as JSON"),
        (lambda: peers.submit(""), peers.BadTask, "kind must have 1 to 200 characters"),
        (lambda: thumb.options(priority=10**6), peers.BadTask, "priority must be -32768 to 32767"),
        (lambda: thumb.options(max_attempts=0), peers.BadTask, "max_attempts must be 1 to 1000"),
        (lambda: thumb.options(timeout=0), peers.BadTask, "must be 1ms to 30d, not 0s"),
        (lambda: thumb.options(delay=math.nan), peers.BadTask, "delay must be 0s to 36500d"),
        (lambda: thumb.options(idempotency_key=""), peers.BadTask, "key must be 1 to 500"),
        (lambda: thumb.options(scheduled_at=NAIVE), peers.BadTask, "no time zone.*timezone.utc"),
        (lambda: peers.submit("k", {}, que="a"), peers.BadTask, 'no option "que".*queue, pri'),  # type: ignore[call-overload]
        (lambda: peers.submit("k", path="a"), peers.BadTask, r'in the dict: \{"path": …\}'),  # type: ignore[call-overload]
        (lambda: add_to_graph("k", path="a"), peers.BadTask, r'in the dict: \{"path": …\}'),
        (lambda: thumb.options(que="a"), peers.BadTask, 'no option "que".*queue, pri'),  # type: ignore[call-arg]
        (lambda: add_to_graph("k", {}, que="a"), peers.BadTask, 'no option "que".*queue, pri'),
        (lambda: thumb.options(on_parent_failure="panic"), peers.BadTask, '"hold", "cancel" or'),
        (lambda: peers.task("test.thumb")(lambda: None), ValueError, "another kind"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[], object],
    kind: type[Exception],
    message: str,
) -> None:
    """The error names the thing and the bound; no database is needed to find out."""
    monkeypatch.setenv("PEERS_DATABASE_URL", "host=/nowhere")
    with pytest.raises(kind, match=message):
        call()


# ------------------------------------------------------------------------------------- by which way


def test_inside_a_psycopg_transaction(database_url: str, db: Connection) -> None:
    """Connection or cursor, whatever their rows look like: it exists once they commit."""
    with psycopg.connect(database_url, row_factory=dict_row) as own:
        kept = thumb.submit_in(own, "a")
        assert thumb.submit_in(own.cursor(), "b") == kept + 1
        assert not db.execute("select from peers.task").fetchall()
    assert task_row(db, kept)["args"] == {"path": "a"}
    with psycopg.connect(database_url, cursor_factory=psycopg.RawCursor) as own:
        thumb.submit_in(own, "c")
        own.rollback()
    assert len(db.execute("select from peers.task").fetchall()) == 2


def test_inside_a_sqlalchemy_transaction(engine: Engine, db: Connection) -> None:
    """Session or Connection: the task commits and rolls back with the application's own rows."""
    with Session(engine) as session:
        kept = thumb.submit_in(session, "a")
        session.commit()
        thumb.submit_in(session, "rolled back")
    with engine.begin() as connection:
        second = thumb.submit_in(connection, "b")
    rows = db.execute("select id from peers.task order by id").fetchall()
    assert [row["id"] for row in rows] == [kept, second]


def test_inside_an_async_psycopg_transaction(database_url: str, db: Connection) -> None:
    """The same by awaiting; a graph by `async with`."""

    async def main() -> list[int]:
        async with await psycopg.AsyncConnection.connect(database_url) as own:
            first = await thumb.submit_in(own, "a")
            second = await thumb.submit_in(own.cursor(), "b")
            async with peers.graph(own) as graph:
                third = graph.add(fetch.after(first), url="c")
            return [first, second, third.id]

    ids = asyncio.run(main())
    rows = db.execute("select id from peers.task order by id").fetchall()
    assert [row["id"] for row in rows] == ids


def test_inside_an_async_sqlalchemy_transaction(database_url: str, db: Connection) -> None:
    """AsyncSession and AsyncConnection are awaited too."""
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def main() -> list[int]:
        engine = create_async_engine(sqlalchemy_url(database_url))
        async with AsyncSession(engine) as session:
            first = await thumb.submit_in(session, "a")
            async with peers.graph(session) as graph:
                second = graph.add(fetch.after(first), url="c")
            await session.commit()
        async with engine.begin() as connection:
            third = await thumb.submit_in(connection, "b")
        await engine.dispose()
        return [first, second.id, third]

    ids = asyncio.run(main())
    rows = db.execute("select id from peers.task order by id").fetchall()
    assert [row["id"] for row in rows] == ids


class Parent:
    """Stands for the peer that runs a handler: answers its calls as the real one does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.verbs: list[str] = []

    def call(self, execution_id: int, verb: str, payload: object) -> Any:
        """One frame there and back."""
        assert execution_id == 5
        self.verbs.append(verb)
        connection = LazyConnection(lambda: connect(self.url, application_name="test"))
        try:
            body = json.dumps(payload).encode()
            return json.loads(perform_for_handler(connection, _begin, verb, body))
        finally:
            connection.close()

    def tell(self, execution_id: int, verb: str, payload: object) -> None:
        """Not used here."""
        raise NotImplementedError(execution_id, verb, payload)

    def limit(self, execution_id: int, seconds: float | None) -> None:
        """Not used here."""
        raise NotImplementedError(execution_id, seconds)


def test_from_a_handler_through_its_peer(
    database_url: str, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler needs no database URL: its peer carries what it submits."""
    monkeypatch.delenv("PEERS_DATABASE_URL", raising=False)
    parent = Parent(database_url)
    task = context.CurrentTask(
        id=1, kind="k", attempt=1, token="t", deadline=None, execution_id=5, _scheduler=parent
    )
    with inside_handler(task):
        first = thumb.options(delay=60).submit("a")
        with peers.graph() as graph:
            second = graph.add(thumb.options(delay=60, depends_on=[first]), path="b")
    assert parent.verbs == ["submit", "submit_graph"]
    assert task_row(db, first)["state"] == "scheduled"
    row = task_row(db, second.id)
    assert (row["state"], row["priority"]) == ("blocked", 7)
    assert row["scheduled_at"] - row["created_at"] > timedelta(seconds=59)


def test_what_is_no_connection_is_refused(configured: str) -> None:
    """The error lists what would do."""
    with pytest.raises(peers.BadArgument, match=r"Session or Connection.*not a str"):
        thumb.submit_in(configured, "a")  # type: ignore[call-overload]


def test_a_refusal_is_ours_by_every_way(engine: Engine, configured: str) -> None:
    """Also when SQLAlchemy has wrapped the driver's error."""
    orphan = thumb.options(depends_on=[999])
    with pytest.raises(peers.BadGraph, match="there is no task 999"):
        orphan.submit("a")
    with Session(engine) as session, pytest.raises(peers.BadGraph, match="there is no task 999"):
        orphan.submit_in(session, "a")
    with psycopg.connect(configured) as own:
        own.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with pytest.raises(peers.PeersError, match="need READ COMMITTED"):
            orphan.submit_in(own, "a")
        own.rollback()


@pytest.mark.usefixtures("configured")
def test_a_deadlock_is_tried_again_in_a_transaction_of_our_own(db: Connection) -> None:
    """The first try is the victim, the second one succeeds."""
    db.execute("create sequence public.tries")
    db.execute(
        """create function be_a_victim() returns trigger language plpgsql as $$
        begin
            if nextval('public.tries') = 1 then
                raise exception 'deadlock detected' using errcode = '40P01';
            end if;
            return null;
        end $$"""
    )
    db.execute(
        "create trigger be_a_victim after insert on peers.task execute function be_a_victim()"
    )
    task_id = thumb.submit("a")
    assert task_row(db, task_id)["args"] == {"path": "a"}
    assert db.execute("select last_value from public.tries").fetchall() == [{"last_value": 2}]


# ------------------------------------------------------------------------------------------- graphs


@pytest.mark.usefixtures("configured")
def test_a_graph_is_one_transaction(db: Connection) -> None:
    """Nodes come after nodes and after older tasks; ids are known when the block has ended."""
    older = peers.submit("older")
    with peers.graph() as graph:
        extract = graph.add(thumb, path="a")
        load = graph.add(
            "etl.load", {"day": "1"}, depends_on=[extract, older], on_parent_failure="run"
        )
        report = graph.add(thumb.options(metadata={"m": 1}).after(extract, load), path="b")
        with pytest.raises(peers.BadGraph, match="not been submitted yet"):
            _ = extract.id
    edges = db.execute(
        "select parent_id, child_id, on_parent_failure from peers.dependency order by 1, 2"
    ).fetchall()
    assert [tuple(edge.values()) for edge in edges] == [
        (older, load.id, "run"),
        (extract.id, load.id, "run"),
        (extract.id, report.id, "hold"),
        (load.id, report.id, "hold"),
    ]
    assert task_row(db, load.id)["args"] == {"day": "1"}
    assert task_row(db, extract.id)["queue"] == "media"
    xids = db.execute("select distinct created_xid from peers.task where id > %s", (older,))
    assert len(xids.fetchall()) == 1
    with peers.graph() as second:
        second.add("later", depends_on=[report])
    assert (
        len(
            db.execute("select from peers.dependency where parent_id = %s", (report.id,)).fetchall()
        )
        == 1
    )


@pytest.mark.usefixtures("configured")
def test_an_exception_in_the_block_submits_nothing(db: Connection) -> None:
    """And passes through."""

    def fill() -> None:
        with peers.graph() as graph:
            graph.add(thumb, path="a")
            raise LookupError

    with pytest.raises(LookupError):
        fill()
    assert not db.execute("select from peers.task").fetchall()


@pytest.mark.usefixtures("configured")
def test_an_empty_graph_is_nothing(db: Connection) -> None:
    """A loop over nothing needs no special case."""
    with peers.graph() as graph:
        pass
    assert graph.ids == {}
    assert not db.execute("select from peers.task").fetchall()


def keyed_block(key: str, last: str = "report") -> list[int]:
    """The ids of a graph of three tasks under this key."""
    with peers.graph(idempotency_key=key) as graph:
        first = graph.add(thumb.options(idempotency_key="its own"), path="a")
        middle = graph.add("extract", depends_on=[first])
        nodes = [first, middle, graph.add(last, depends_on=[first, middle])]
    return [node.id for node in nodes]


@pytest.mark.usefixtures("configured")
def test_a_keyed_graph_that_is_submitted_again_inserts_nothing(db: Connection) -> None:
    """The same ids, even after its tasks have run; another key is another graph, but for the task
    that has a key of its own.
    """
    once = keyed_block("nightly")
    peer = Peer.join(db, "extract", "report", thumb.kind, queues=["default", "media"])
    for queue in ["media", "default", "default"]:
        assert peer.complete(*peer.claim(queue=queue)) == {}
    ended = "select id from peers.task where state = 'completed' order by id"
    assert [each["id"] for each in db.execute(ended)] == once
    assert keyed_block("nightly") == once
    assert [each["id"] for each in db.execute("select id from peers.task order by id")] == once
    other = keyed_block("nightly-2", last="other")
    assert [a == b for a, b in zip(once, other, strict=True)] == [True, False, False]


@pytest.mark.usefixtures("configured")
def test_a_node_stands_for_a_task_that_has_started(db: Connection) -> None:
    """Its idempotency_key finds it; its children wait for it, and for the parents of the node."""
    known = peers.submit("load", idempotency_key="load 1")
    peer = Peer.join(db, "load")
    assert [claim.task_id for claim in peer.claim()] == [known]
    older = peers.submit("older")
    with peers.graph() as graph:
        extract = graph.add("extract")
        load = graph.add("load", {}, depends_on=[extract, older], idempotency_key="load 1")
        report = graph.add("report", {}, depends_on=[load])
    assert load.id == known
    assert (extract.id.is_new, load.id.is_new, report.id.is_new) == (True, False, True)
    edges = db.execute("select parent_id, child_id from peers.dependency").fetchall()
    assert {(edge["parent_id"], edge["child_id"]) for edge in edges} == {
        (extract.id, report.id),
        (older, report.id),
        (known, report.id),
    }


def test_a_keyed_graph_in_an_async_transaction(database_url: str, db: Connection) -> None:
    """The async form takes the same key."""

    async def main() -> list[peers.TaskId]:
        ids = []
        for _ in range(2):
            async with await psycopg.AsyncConnection.connect(database_url) as connection:
                async with peers.graph(connection, idempotency_key="nightly") as graph:
                    node = graph.add("extract")
                ids.append(node.id)
        return ids

    first, second = asyncio.run(main())
    assert first == second
    assert len(db.execute("select from peers.task").fetchall()) == 1


def test_a_graph_belongs_to_the_application_s_transaction(engine: Engine, db: Connection) -> None:
    """Rolled back with it."""
    with Session(engine) as session:
        with peers.graph(session) as graph:
            graph.add(thumb, path="a")
        session.rollback()
        with peers.graph(session) as graph:
            kept = graph.add(thumb, path="b")
        session.commit()
    assert [row["id"] for row in db.execute("select id from peers.task").fetchall()] == [kept.id]


# ------------------------------------------------------------------------------------------- tables


def test_the_typed_tables_are_those_of_the_database(engine: Engine, db: Connection) -> None:
    """Every column that they describe exists, under that name and type."""
    rows = db.execute(
        "select attrelid::regclass || '.' || attname as name, format_type(atttypid, null) as type"
        " from pg_attribute join pg_class on pg_class.oid = attrelid"
        " where relnamespace = 'peers'::regnamespace and attnum > 0 and relkind in ('r', 'v')"
    ).fetchall()
    there = {row["name"]: row["type"].replace("name", "text") for row in rows}
    for table in tables.metadata.tables.values():
        for column in table.columns:
            ours = column.type.compile(engine.dialect).lower()
            assert ours == there[f"{table.fullname}.{column.name}"], column


@pytest.mark.usefixtures("configured")
def test_reports_read_states_as_states(engine: Engine) -> None:
    """An enum comes back as TaskState, and can be asked for by it."""
    thumb.submit("a")
    with engine.connect() as connection:
        query = select(tables.task.c.state).where(tables.task.c.state == peers.TaskState.READY)
        assert connection.execute(query).scalars().all() == [peers.TaskState.READY]
        for table in tables.metadata.tables.values():
            connection.execute(select(table)).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("queue", 5),
        ("priority", "high"),
        ("priority", True),
        ("scheduled_at", "tomorrow"),
        ("delay", "soon"),
        ("depends_on", 5),
        ("depends_on", ["a"]),
        ("idempotency_key", 7),
        ("metadata", [1]),
    ],
)
def test_an_option_of_the_wrong_type_is_named(option: str, value: object) -> None:
    """With what it must be and what it is."""
    with pytest.raises(peers.BadTask, match=f"{option} must") as raised:
        thumb.options(**{option: value})  # type: ignore[arg-type]  # that is the point
    assert repr(value) in str(raised.value)


def test_a_decorator_without_its_kind_says_what_to_write() -> None:
    """`@task` above a function takes the function for the kind."""
    with pytest.raises(ValueError, match=r'write @task\("some.kind"\)'):
        peers.task(lambda: None)  # type: ignore[call-overload]  # that is the point


def test_a_graph_that_was_submitted_takes_no_more(database_url: str) -> None:
    """A task added after the block would be lost in silence."""
    with connect(database_url, application_name="test") as connection:
        with peers.graph(connection) as gathered:
            first = gathered.add("some.kind")
            gathered.add("some.kind", depends_on=[first])
        with pytest.raises(peers.BadGraph, match="submitted already"):
            gathered.add("some.kind")


def test_a_task_may_stand_for_its_kind(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a kind is named: its bound options apply, and its annotations check the args."""
    monkeypatch.setenv("PEERS_DATABASE_URL", database_url)
    first = peers.submit(thumb, "/a.png", width=1)
    second = asyncio.run(peers.submit_async(thumb, path="/b.png"))
    with psycopg.connect(database_url) as connection:
        third = peers.submit_in(connection, thumb.options(priority=1), "/c.png")
    many = peers.submit_many(thumb.options(max_attempts=2), [{"path": "/d.png"}], priority=3)
    with peers.Client(database_url) as client:
        many += client.submit_many(thumb, [{"path": "/e.png"}], unique_keys=["e"])
    found = peers.find(kind=thumb)
    assert [each.id for each in found][::-1] == [first, second, third, *many]
    assert {each.queue for each in found} == {"media"}
    assert [each.priority for each in found][::-1] == [7, 7, 1, 3, 7]
    assert found[1].max_attempts == 2
    with pytest.raises(peers.ArgsInvalid, match="path"):
        peers.submit_many(thumb, [{}])
    with pytest.raises(peers.BadTask, match="cannot share an idempotency_key"):
        peers.submit_many(thumb.options(idempotency_key="k"), [{"path": "/f.png"}])
    with pytest.raises(peers.BadTask, match="cannot share a unique_key"):
        peers.submit_many(thumb.options(unique_key="k"), [{"path": "/f.png"}])
