"""Detect a connection pooler that lends a session for one transaction only.

Behind one a peer prepares nothing, sets nothing for the session, and cannot LISTEN.
"""

from __future__ import annotations

from typing import Final

import psycopg

from peers.database.connection import Connection
from peers.errors import transactions_refused

SYMPTOMS: Final = (
    psycopg.errors.InvalidSqlStatementName,  # prepared in a session that another client has now
    psycopg.errors.DuplicatePreparedStatement,
)


def is_pooled(one: Connection, other: Connection) -> bool:
    """Return whether these two connections get sessions from a pooler, one for each transaction.

    A pooler of any mode has given them other numbers than those of their sessions. Then asking both
    in several orders detects it whichever free session it picks. Raises `ConfigError` for a pooler
    that lends a session for one statement only.
    """
    if all(each.info.backend_pid == _session(each) for each in (one, other)):
        return False
    seen: dict[int, Connection] = {}
    for order in ((one, one, other, other), (one, other, one, other), (one, other, other, one)):
        for connection in order:
            if seen.setdefault(_session(connection), connection) is not connection:
                _require_transactions(one)
                return True
        if len(seen) > 2:  # noqa: PLR2004  # one each
            _require_transactions(one)
            return True
    return False


def _session(connection: Connection) -> int:
    """Return which session a statement gets."""
    [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
    number: int = pid
    return number


def _require_transactions(connection: Connection) -> None:
    try:
        with connection.transaction():
            connection.execute("select 1")
    except psycopg.OperationalError as error:
        refusal = transactions_refused(error)
        if refusal is None:
            raise
        raise refusal from error
