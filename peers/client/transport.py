"""How a submission reaches the database.

Inside the caller's transaction; on a connection of its own; or, from a running handler, through the
peer that runs it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, LiteralString, TypeAlias, TypeVar

from typing_extensions import TypeIs

from peers.context import current
from peers.errors import DatabaseUnreachable, translated

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Connection as SqlalchemyConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from peers.db import Connection

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

_TRIES = 5
_DEADLOCK_OR_SERIALIZATION = frozenset({"40P01", "40001"})


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
        idempotency_key => d ->> 'idempotency_key', metadata => d -> 'metadata')
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


def relay(connection: Connection, verb: str, body: bytes) -> bytes:
    """Does for a handler what it asked of its peer; JSON goes in and comes out.

    submit: a document → its id. submit_graph: an array of them → {name: id}.
    """
    if verb == SUBMIT.name:
        return b"%d" % SUBMIT.answer(_execute(connection, SUBMIT.sql, body.decode()))
    rows = _execute(connection, SUBMIT_GRAPH.sql, body.decode())
    return json.dumps(SUBMIT_GRAPH.answer(rows)).encode()


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
    import psycopg

    from peers import db
    from peers.settings import Settings

    backoff = db.Backoff()
    url = Settings().url
    with db.connect(url, application_name="peers: submit", pooled=True) as connection:
        for tries_left in reversed(range(_TRIES)):
            try:
                with connection.transaction():
                    return verb.answer(_execute(connection, verb.sql, document))
            except psycopg.Error as error:
                if db.is_connection_lost(error):
                    raise DatabaseUnreachable(
                        f"the connection broke while submitting, whose fate is unknown: {error}",
                        "With an idempotency_key it is safe to submit again.",
                    ) from error
                if error.sqlstate not in _DEADLOCK_OR_SERIALIZATION or not tries_left:
                    raise
                time.sleep(backoff.next())
    raise AssertionError("the last try returns or raises")
