"""A pooler that lends a connection for one transaction only: a peer cannot work behind one.

It needs a session of its own: bounds on its statements, prepared statements, LISTEN.
"""

from __future__ import annotations

from typing import Final

import psycopg

from peers.database.connection import Connection
from peers.errors import ConfigError

_ROUNDS: Final = 3
SYMPTOMS: Final = (
    psycopg.errors.InvalidSqlStatementName,  # prepared in a session that somebody else has now
    psycopg.errors.DuplicatePreparedStatement,
)
_REMEDY: Final = (
    "Connect peers to Postgres itself, or through the pooler in session mode "
    "(pool_mode = session); applications may submit through it as it is"
)


def refuse_pooler(one: Connection, other: Connection) -> None:
    """Raise `ConfigError` when these two connections do not have a session each.

    Asked in turns and twice, so that it shows whichever free session a pooler picks.
    """
    seen: dict[int, int] = {}
    for _ in range(_ROUNDS):
        for owner, connection in enumerate((one, one, other, other)):
            [(pid,)] = connection.execute("select pg_backend_pid()").fetchall()
            if seen.setdefault(pid, owner // 2) != owner // 2:
                raise _pooled("two of our connections share one session")
        if len(seen) > 2:  # noqa: PLR2004  # one each
            raise _pooled("our connections change their sessions")


def refuse_symptom(error: BaseException) -> None:
    """Raise `ConfigError` if this error comes of a session that was changed under our feet."""
    if isinstance(error, SYMPTOMS):
        raise _pooled(str(error).strip()) from error


def _pooled(evidence: str) -> ConfigError:
    return ConfigError(
        f"there is a pooler in transaction mode between this peer and Postgres ({evidence})",
        _REMEDY,
    )
