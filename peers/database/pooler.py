"""Detect a connection pooler in transaction mode, behind which a peer cannot work.

A peer needs sessions of its own, for limits on its statements, prepared statements and LISTEN.
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
_REMEDY: Final = (
    "Connect peers to Postgres directly, or through the pooler in session mode "
    "(pool_mode = session). Applications can submit through the pooler as it is."
)


def refuse_pooler(one: Connection, other: Connection) -> None:
    """Raise `ConfigError` unless each of these two connections has a session of its own.

    Asking both in turns, and each twice, detects it whichever free session a pooler picks.
    """
    seen: dict[int, int] = {}
    for _ in range(_ROUNDS):
        for owner, connection in enumerate((one, one, other, other)):
            [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
            if seen.setdefault(pid, owner // 2) != owner // 2:
                raise _pooled("two connections share one session")
        if len(seen) > 2:  # noqa: PLR2004  # one each
            raise _pooled("a connection changes its session")


def refuse_symptom(error: BaseException) -> None:
    """Raise `ConfigError` if the error shows that a pooler has exchanged our session."""
    if isinstance(error, SYMPTOMS):
        raise _pooled(str(error).strip()) from error


def _pooled(evidence: str) -> ConfigError:
    return ConfigError(
        f"there is a pooler in transaction mode between this peer and Postgres ({evidence})",
        _REMEDY,
    )
