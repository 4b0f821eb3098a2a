"""The sessions and connections of an application in which the client can work."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from typing_extensions import TypeIs

from peers.errors import BadArgument

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Connection as SqlalchemyConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    class DjangoConnection(Protocol):
        """Django's `connection`, or one of its `connections`."""

        vendor: str

        def cursor(self) -> Any:
            """Return a cursor."""

        def chunked_cursor(self) -> Any:
            """Return a cursor of the server."""

    SyncTarget: TypeAlias = (
        Session
        | scoped_session[Any]
        | SqlalchemyConnection
        | psycopg.Connection[Any]
        | psycopg.Cursor[Any]
        | DjangoConnection
    )
    AsyncTarget: TypeAlias = (
        AsyncSession
        | async_scoped_session[Any]
        | AsyncConnection
        | psycopg.AsyncConnection[Any]
        | psycopg.AsyncCursor[Any]
    )


def is_async_target(target: SyncTarget | AsyncTarget) -> TypeIs[AsyncTarget]:
    """Return whether calls on the target have to be awaited.

    Raises BadArgument if it is not a session, connection or cursor.
    """
    import psycopg

    if isinstance(target, psycopg.AsyncConnection | psycopg.AsyncCursor):
        return True
    if isinstance(target, psycopg.Connection | psycopg.Cursor):
        return False
    # needs greenlet, so it is not imported for applications that do not use it
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

    if isinstance(target, Session | scoped_session | Connection) or is_django(target):
        return False
    raise BadArgument(
        "the target must be a SQLAlchemy Session or Connection, a psycopg connection or cursor "
        f"(sync or async), or Django's connection, not a {type(target).__name__}"
    )


def is_django(target: object) -> TypeIs[DjangoConnection]:
    """Return whether the target is a connection of Django to Postgres. Raises BadArgument."""
    # Django loads the backend when its connection is first used, so that class may be missing still
    proxy = sys.modules.get("django.utils.connection")
    wrapper = sys.modules.get("django.db.backends.base.base")
    is_proxy = proxy is not None and isinstance(target, proxy.ConnectionProxy)
    is_wrapper = wrapper is not None and isinstance(target, wrapper.BaseDatabaseWrapper)
    if not is_proxy and not is_wrapper:
        return False
    vendor = getattr(target, "vendor", None)
    if vendor != "postgresql":
        raise BadArgument(f"the target must be a connection to Postgres, not to {vendor}")
    return True


@contextmanager
def unprepared(target: Session | scoped_session[Any] | SqlalchemyConnection) -> Iterator[None]:
    """Keep psycopg from preparing statements, which a pooler in transaction mode would lose."""
    from sqlalchemy import Connection as SqlalchemyConnection

    connection = target if isinstance(target, SqlalchemyConnection) else target.connection()
    with _without_threshold(connection.connection.driver_connection):
        yield


@asynccontextmanager
async def unprepared_async(
    target: AsyncSession | async_scoped_session[Any] | AsyncConnection,
) -> AsyncIterator[None]:
    """Do the same for an async target."""
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
