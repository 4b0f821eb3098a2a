"""Detect a connection pooler that lends a session for one transaction only.

Behind one a peer prepares nothing, sets nothing for the session, and cannot LISTEN.
"""

from __future__ import annotations

from typing import Final

import psycopg

from peers.database.connection import Connection
from peers.errors import ConfigError

_ROUNDS: Final = 3
_REFUSES_TRANSACTIONS: Final = "statement pooling mode"
SYMPTOMS: Final = (
    psycopg.errors.InvalidSqlStatementName,  # prepared in a session that another client has now
    psycopg.errors.DuplicatePreparedStatement,
)


def is_pooled(one: Connection, other: Connection) -> bool:
    """Return whether these two connections get sessions from a pooler, one for each transaction.

    Asking both in turns, and each twice, detects it whichever free session a pooler picks. Raises
    `ConfigError` for a pooler that lends a session for one statement only.
    """
    seen: dict[int, int] = {}
    for _ in range(_ROUNDS):
        for owner, connection in enumerate((one, one, other, other)):
            pid = _session(connection)
            if seen.setdefault(pid, owner // 2) != owner // 2:
                return True
        if len(seen) > 2:  # noqa: PLR2004  # one each
            return True
    return False


def _session(connection: Connection) -> int:
    """Return which session a transaction gets."""
    try:
        with connection.transaction():
            [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
    except psycopg.OperationalError as error:
        if _REFUSES_TRANSACTIONS not in str(error):
            raise
        raise ConfigError(
            f"a pooler between this peer and Postgres refuses transactions ({str(error).strip()})",
            "Use pool_mode = transaction or session.",
        ) from error
    number: int = pid
    return number
