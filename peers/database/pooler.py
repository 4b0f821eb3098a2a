"""Detect a connection pooler that lends a session for one transaction only.

Behind one a peer prepares nothing, sets nothing for the session, and cannot LISTEN.
"""

from __future__ import annotations

from typing import Final

import psycopg

from peers.database.connection import Connection
from peers.errors import ConfigError

_ROUNDS: Final = 3
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
            [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
            if seen.setdefault(pid, owner // 2) != owner // 2 or len(seen) > 2:  # noqa: PLR2004  # one each
                _require_transactions(one)
                return True
    return False


def _require_transactions(connection: Connection) -> None:
    try:
        with connection.transaction():
            connection.execute("select 1")
    except psycopg.Error as error:
        raise ConfigError(
            "there is a pooler between this peer and Postgres that refuses transactions"
            f" ({str(error).strip()})",
            "Use pool_mode = transaction or session.",
        ) from error
