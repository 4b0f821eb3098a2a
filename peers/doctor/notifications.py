"""Check the way that notifications take: a pooler in between, and a real round trip."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from psycopg import sql

from peers.database.connection import connect
from peers.database.pooler import is_pooled
from peers.doctor.check import Check
from peers.doctor.findings import ERROR, WARNING, Finding
from peers.errors import PeersError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peers.database.deadlines import BoundedConnection
    from peers.doctor.check import CheckContext

_WAIT: Final = 3.0
"""Seconds until a notification counts as lost."""
_SLOW: Final = 0.5
_NAME: Final = "peers doctor"


def _find_pooler(context: CheckContext) -> Iterator[Finding]:
    """Find a pooler in transaction mode. One in statement mode has refused the connection."""
    if context.settings.listen_url is None and _is_pooled(context):
        yield Finding(
            WARNING, "pooler", "the connection",
            "a pooler in transaction mode lies between this host and the database: no notification "
            "comes through, so peers find new tasks by polling, up to a second later",
            "set PEERS_LISTEN_URL to an address of Postgres itself, or pool_mode = session",
        )  # fmt: skip


def _is_pooled(context: CheckContext) -> bool:
    with _second(context) as other:
        return is_pooled(context.connection, other)


def _second(context: CheckContext) -> BoundedConnection:
    return connect(
        context.settings.url, application_name=_NAME, bounds=context.connection.bounds, pooled=True
    )


def _find_lost_notification(context: CheckContext) -> Iterator[Finding]:
    if _is_standby(context.connection):
        return  # the check `read_only` says so; a standby has no notifications
    listen_url = context.settings.listen_url
    if _is_pooled(context):
        if listen_url is None:
            return  # the check `pooler` says so
        try:
            listener = connect(listen_url.get_secret_value(), application_name=_NAME)
        except PeersError as error:
            yield Finding(
                ERROR, "listen_url", "PEERS_LISTEN_URL",
                f"PEERS_LISTEN_URL cannot be used, so peers find new tasks by polling: {error}",
                "correct PEERS_LISTEN_URL: an address of Postgres itself, with the same database",
            )  # fmt: skip
            return
    else:
        listener = _second(context)
    with listener:
        took = measure(context.connection, listener)
    if took is None:
        yield Finding(
            ERROR, "notification", "LISTEN and NOTIFY",
            f"a notification did not arrive within {_WAIT:.0f} s: peers find new tasks by polling",
            "if PEERS_LISTEN_URL is set, it must name the same database as PEERS_DATABASE_URL; "
            "look for the findings notification_queue and pooler",
        )  # fmt: skip
    elif took > _SLOW:
        yield Finding(
            WARNING, "notification", "LISTEN and NOTIFY",
            f"a notification took {took:.1f} s, and tasks start that much later",
            "look for the findings slow_connection, synchronous_standby and notification_queue; "
            "an overloaded server is slow as well",
        )  # fmt: skip


def _is_standby(connection: BoundedConnection) -> bool:
    with connection.transaction():
        row = connection.execute("select pg_is_in_recovery()").fetchone()
    return row is not None and bool(row[0])


def measure(sender: BoundedConnection, listener: BoundedConnection) -> float | None:
    """Return the seconds that a notification takes, or None if it does not arrive.

    The commit does not wait for the disk or a standby, because this is about notifications only.
    """
    channel = f"peers_doctor_{secrets.token_hex(8)}"
    listener.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
    began = time.monotonic()
    with sender.transaction():
        sender.execute("set local synchronous_commit = off")
        sender.execute("select pg_notify(%s, '')", (channel,))
    for _ in listener.notifies(timeout=_WAIT, stop_after=1):
        return time.monotonic() - began
    return None


CHECKS: Final = (
    Check("pooler", "Does a pooler lend sessions for one transaction only?", _find_pooler,
          ("pooler",)),
    Check("notification", "How long does a notification take?", _find_lost_notification,
          ("notification", "listen_url")),
)  # fmt: skip
