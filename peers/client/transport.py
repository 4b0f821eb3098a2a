"""How a submission reaches the database.

Inside the caller's transaction; on a connection of its own; or, from a running handler, through the
peer that runs it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, LiteralString, TypeAlias, TypeVar

from typing_extensions import TypeIs

from peers.context import current
from peers.errors import translated

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Connection as SqlalchemyConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from peers.client.once import LazyConnection
    from peers.database.connection import Connection

    Synchronous: TypeAlias = (
        Session
        | scoped_session[Any]
        | SqlalchemyConnection
        | psycopg.Connection[Any]
        | psycopg.Cursor[Any]
    )
    Asynchronous: TypeAlias = (
        AsyncSession
        | async_scoped_session[Any]
        | AsyncConnection
        | psycopg.AsyncConnection[Any]
        | psycopg.AsyncCursor[Any]
    )

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verb(Generic[T]):
    """A function of the database that takes one JSON document, `:document`."""

    name: str
    sql: LiteralString
    answer: Callable[[Sequence[Any]], T]


SUBMIT: Verb[int] = Verb(
    "submit",
    """
    select peers.submit(
        kind => d ->> 'kind', args => d -> 'args', queue => d ->> 'queue',
        priority => (d ->> 'priority')::integer,
        scheduled_at => coalesce((d ->> 'scheduled_at')::timestamptz,
                                 peers.now() + (d ->> 'delay')::interval),
        max_attempts => (d ->> 'max_attempts')::integer, timeout => (d ->> 'timeout')::interval,
        depends_on => array(select jsonb_array_elements_text(d -> 'depends_on')::bigint),
        on_parent_failure => (d ->> 'on_parent_failure')::peers.parent_failure_policy,
        idempotency_key => d ->> 'idempotency_key', metadata => d -> 'metadata',
        graph_id => (d ->> 'graph_id')::bigint)
    from (select cast(:document as jsonb)) as submission(d)
    """,
    lambda rows: int(rows[0][0]),
)

SUBMIT_GRAPH: Verb[dict[str, int]] = Verb(
    "submit_graph",
    """
    select name, task_id from peers.submit_graph((
        select jsonb_agg(n - 'delay' || jsonb_build_object('scheduled_at', coalesce(
            n -> 'scheduled_at', to_jsonb(peers.now() + (n ->> 'delay')::interval))))
        from jsonb_array_elements(cast(:document as jsonb)) as node(n)))
    """,
    dict,
)

_AS_BYTES: dict[str, LiteralString] = {
    "submit": "select convert_to(id::text, 'UTF8') from (:verb) as answer(id)",
    "submit_graph": "select convert_to(json_object_agg(name, task_id)::text, 'UTF8')"
    " from (:verb) as answer",
}
"""What is told a handler by its peer, which need not make JSON of it."""


def send(verb: Verb[T], document: object, target: Synchronous | None = None) -> T:
    """Calls the verb inside the target's transaction; without a target, on a way of its own.

    Raises what the database refuses as one of peers.errors, and DatabaseUnreachable.
    """
    if target is not None:
        return send_text(verb, json.dumps(document), target)
    running = current()
    if running is not None:
        answer: T = running.call(verb.name, document)
        return answer
    return _send_alone(verb, json.dumps(document))


def send_text(verb: Verb[T], document: str, target: Synchronous) -> T:
    """Call the verb inside the target's transaction with a document that is JSON already."""
    return verb.answer(_execute(target, verb.sql, document))


async def send_async(verb: Verb[T], document: object, target: Asynchronous) -> T:
    """Calls the verb inside an async target's transaction."""
    import psycopg
    from psycopg.rows import tuple_row
    from sqlalchemy import text

    parameters = {"document": json.dumps(document)}
    if isinstance(target, psycopg.AsyncCursor):
        target = target.connection
    with translated():
        if isinstance(target, psycopg.AsyncConnection):
            async with psycopg.AsyncCursor(target, row_factory=tuple_row) as cursor:
                await cursor.execute(_for_psycopg(verb.sql), parameters, prepare=False)
                return verb.answer(await cursor.fetchall())
        async with _unprepared_async(target):
            return verb.answer((await target.execute(text(verb.sql), parameters)).all())


def relay(
    connection: LazyConnection, begin: Callable[[Connection], str], verb: str, body: bytes
) -> bytes:
    """Submits once what a handler asked its peer to; JSON goes in and comes out.

    submit: a document → its id. submit_graph: an array of them → {name: id}. `begin` begins the
    transaction: see `submit_once`. The peer's parent process neither reads nor writes the JSON: of
    a large graph that would keep its other threads from running.
    """
    inner = SUBMIT.sql if verb == SUBMIT.name else SUBMIT_GRAPH.sql
    sql = (
        _AS_BYTES[verb]
        .replace(":verb", inner)
        .replace(":document", "convert_from(%(document)b, 'UTF8')")
    )

    def submit(current: Connection) -> bytes:
        with translated():
            [[answer]] = current.execute(sql, {"document": body}, binary=True)
        return bytes(answer)

    from peers.client.once import submit_once

    return submit_once(connection, begin, submit)


def is_asynchronous(target: Synchronous | Asynchronous) -> TypeIs[Asynchronous]:
    """Whether calls on the target have to be awaited.

    Raises TypeError for what is no connection, session or cursor.
    """
    import psycopg

    if isinstance(target, psycopg.AsyncConnection | psycopg.AsyncCursor):
        return True
    if isinstance(target, psycopg.Connection | psycopg.Cursor):
        return False
    # needs greenlet, so it is not imported on behalf of those who don't use it
    asynchronous = sys.modules.get("sqlalchemy.ext.asyncio")
    if asynchronous and isinstance(
        target,
        asynchronous.AsyncSession
        | asynchronous.async_scoped_session
        | asynchronous.AsyncConnection,
    ):
        return True

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(target, Session | scoped_session | Connection):
        return False
    raise TypeError(
        "a task is submitted in a SQLAlchemy Session or Connection, or in a psycopg connection or "
        f"cursor (sync or async), not in a {type(target).__name__}"
    )


def _execute(target: Synchronous, sql: LiteralString, document: str) -> Sequence[Any]:
    import psycopg
    from psycopg.rows import tuple_row

    parameters = {"document": document}
    if isinstance(target, psycopg.Cursor):
        target = target.connection
    with translated():
        if isinstance(target, psycopg.Connection):
            # not the target's own class of cursor, which may read other placeholders
            with psycopg.Cursor(target, row_factory=tuple_row) as cursor:
                return cursor.execute(_for_psycopg(sql), parameters, prepare=False).fetchall()
        from sqlalchemy import text

        with _unprepared(target):
            return target.execute(text(sql), parameters).all()


@contextmanager
def _unprepared(target: Session | scoped_session[Any] | SqlalchemyConnection) -> Iterator[None]:
    """Have psycopg prepare nothing, which a pooler in transaction mode would lose."""
    from sqlalchemy import Connection as SqlalchemyConnection

    connection = target if isinstance(target, SqlalchemyConnection) else target.connection()
    with _without_threshold(connection.connection.driver_connection):
        yield


@asynccontextmanager
async def _unprepared_async(
    target: AsyncSession | async_scoped_session[Any] | AsyncConnection,
) -> AsyncIterator[None]:
    from sqlalchemy.ext.asyncio import AsyncConnection

    connection = target if isinstance(target, AsyncConnection) else await target.connection()
    with _without_threshold((await connection.get_raw_connection()).driver_connection):
        yield


@contextmanager
def _without_threshold(driver: Any) -> Iterator[None]:
    import psycopg

    if not isinstance(driver, psycopg.Connection | psycopg.AsyncConnection):
        yield
        return
    before, driver.prepare_threshold = driver.prepare_threshold, None
    try:
        yield
    finally:
        driver.prepare_threshold = before


def _for_psycopg(sql: LiteralString) -> LiteralString:
    return sql.replace(":document", "%(document)s")


def _send_alone(verb: Verb[T], document: str) -> T:
    """On a short-lived connection, in a transaction of its own that may be tried again."""
    from peers.client.once import LazyConnection, submit_once
    from peers.database.connection import connect
    from peers.settings import Settings

    url = Settings().url
    connection = LazyConnection(lambda: connect(url, application_name="peers: submit", pooled=True))
    try:
        return submit_once(
            connection, _transaction, lambda own: verb.answer(_execute(own, verb.sql, document))
        )
    finally:
        connection.close()


def _transaction(connection: Connection) -> str:
    [[transaction]] = connection.execute("select pg_current_xact_id()::text")
    return str(transaction)
