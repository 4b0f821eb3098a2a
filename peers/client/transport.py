"""Send a request to the database.

A request is performed inside the caller's transaction, on a connection of the default client, or,
from a running handler, by the peer that runs it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, LiteralString, TypeVar

from peers.client import (
    bulk_statements,
    graph_statements,
    limit_statements,
    schedule_statements,
    statements,
    submit_statements,
)
from peers.client.statements import Request, Statement
from peers.client.targets import is_django, unprepared, unprepared_async
from peers.context import current
from peers.errors import BadTask, translated

if TYPE_CHECKING:
    from peers.client.targets import AsyncTarget, SyncTarget
    from peers.client.transaction import LazyConnection
    from peers.database.connection import Connection

T = TypeVar("T")

_MODULES: Final = (
    statements, submit_statements, graph_statements, bulk_statements, schedule_statements,
    limit_statements,
)  # fmt: skip
_STATEMENTS: Final = {
    each.name: each
    for each in (
        *statements.FINDS.values(),
        *(value for module in _MODULES for value in vars(module).values()),
    )
    if isinstance(each, Statement)
}
"""All statements by name: a handler sends the name to its peer."""


def perform(request: Request[T]) -> T:
    """Perform a request: inside a handler through its peer, otherwise with the default client."""
    running = current()
    if running is not None:
        reply = running.call(request.statement.name, request.document)
        return request.statement.read(reply)
    from peers.client.default import default_client

    return default_client().perform(request)


async def perform_async(request: Request[T]) -> T:
    """Perform a request without blocking the event loop."""
    if current() is not None:
        return await asyncio.to_thread(perform, request)
    from peers.client.default import default_client

    return await default_client().perform_async(request)


def perform_in(target: SyncTarget, request: Request[T]) -> T:
    """Perform a request inside the target's transaction.

    Raises what the database refuses as one of peers.errors.
    """
    return perform_text(target, request.statement, json.dumps(request.document))


def perform_text(target: SyncTarget, statement: Statement[T], document: str) -> T:
    """Execute a statement inside the target's transaction, with a document that is JSON text."""
    return _read(statement, _execute(target, statement.sql, document))


def perform_once(connection: LazyConnection, statement: Statement[T], document: str) -> T:
    """Execute a statement once, in a transaction of its own, with a document that is JSON text."""
    from peers.client.transaction import run_statement_once

    sql = _with_percent(statement.sql)
    text = run_statement_once(connection, sql, {"document": document})
    return _read(statement, [(text,)])


async def perform_in_async(target: AsyncTarget, request: Request[T]) -> T:
    """Perform a request inside an async target's transaction."""
    import psycopg
    from psycopg.rows import tuple_row
    from sqlalchemy import text

    sql, parameters = request.statement.sql, {"document": json.dumps(request.document)}
    if isinstance(target, psycopg.AsyncCursor):
        target = target.connection
    with translated():
        if isinstance(target, psycopg.AsyncConnection):
            async with psycopg.AsyncCursor(target, row_factory=tuple_row) as cursor:
                await cursor.execute(_with_percent(sql), parameters, prepare=False)
                rows: Sequence[Any] = await cursor.fetchall()
        else:
            async with unprepared_async(target):
                rows = (await target.execute(text(sql), parameters)).all()
    return _read(request.statement, rows)


def perform_for_handler(
    connection: LazyConnection, begin: Callable[[Connection], str], name: str, document: bytes
) -> bytes:
    """Perform a handler's request in its peer, exactly once, and return JSON.

    `begin` begins the transaction, see `run_once`. The peer's parent process does not parse the
    JSON: that of a large graph would keep its other threads from running. Raises BadTask for an
    unknown name.
    """
    statement = _STATEMENTS.get(name)
    if statement is None:
        raise BadTask(
            f"the peer does not know the request {name!r} of a handler",
            "Run peers and apps with the same version of Peers.",
        )
    inner = statement.sql.replace(":document", "convert_from(%(document)b, 'UTF8')")
    sql: LiteralString = "select convert_to((:inner), 'UTF8')".replace(":inner", inner)

    def work(current: Connection) -> bytes:
        with translated():
            [[reply]] = current.execute(sql, {"document": document}, binary=True)
        return b"null" if reply is None else bytes(reply)

    from peers.client.transaction import run_once

    return run_once(connection, begin, work)


def _read(statement: Statement[T], rows: Sequence[Any]) -> T:
    text = rows[0][0] if rows else None
    return statement.read(None if text is None else json.loads(text))


def _execute(target: SyncTarget, sql: LiteralString, document: str) -> Sequence[Any]:
    import psycopg
    from psycopg.rows import tuple_row

    parameters = {"document": document}
    if isinstance(target, psycopg.Cursor):
        target = target.connection
    with translated():
        if isinstance(target, psycopg.Connection):
            # the target's own class of cursor may read other placeholders
            with psycopg.Cursor(target, row_factory=tuple_row) as cursor:
                return cursor.execute(_with_percent(sql), parameters, prepare=False).fetchall()
        if is_django(target):
            with target.cursor() as django_cursor:
                django_cursor.execute(_with_percent(sql), parameters)
                rows: Sequence[Any] = django_cursor.fetchall()
            return rows
        from sqlalchemy import text

        with unprepared(target):
            return target.execute(text(sql), parameters).all()


def _with_percent(sql: LiteralString) -> LiteralString:
    return sql.replace(":document", "%(document)s")
