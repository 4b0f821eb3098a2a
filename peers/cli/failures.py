"""Turn exceptions into a sentence, a remedy and an exit code."""

from __future__ import annotations

import psycopg

from peers.database.connection import is_connection_lost
from peers.errors import (
    BadArgument,
    DatabaseUnreachable,
    PeersError,
    from_database,
    transactions_refused,
)


def explained(error: BaseException) -> PeersError | None:
    """Return the error to print, or None for what only a bug in Peers can raise."""
    if isinstance(error, PeersError):
        return error
    if isinstance(error, psycopg.Error):
        return _of_the_database(error)
    if isinstance(error, UnicodeEncodeError):  # the shell passed bytes, or JSON has "\\ud800"
        return BadArgument(
            "a text holds half a character (a lone surrogate) or is not UTF-8",
            "Pass valid Unicode.",
        )
    if isinstance(error, OSError):  # such as a full disk or an unreadable file
        return PeersError(f"cannot write or read: {error}")
    return None


def _of_the_database(error: psycopg.Error) -> PeersError:
    ours = transactions_refused(error) or from_database(error)
    if ours is not None:
        return ours
    # without the CONTEXT, which quotes our SQL
    sentence = error.diag.message_primary or str(error).strip() or type(error).__name__
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return DatabaseUnreachable(
            f"the database accepts no changes: {sentence}",
            "This statement has changed nothing. Connect to the primary; `peers doctor read_only` "
            "says why this server or role only reads.",
        )
    if is_connection_lost(error):
        return DatabaseUnreachable(
            f"the connection to the database was lost: {sentence}",
            "It is unknown whether the command took effect; check before you repeat it.",
        )
    return PeersError(f"the database says: {sentence}", _hint(error))


def _hint(error: psycopg.Error) -> str | None:
    if isinstance(error, psycopg.errors.QueryCanceled):
        return (
            "Somebody cancelled it, or statement_timeout is too short for it: in front of the "
            "command, PGOPTIONS='-c statement_timeout=0' switches that off. "
            "`peers doctor session_timeout` says where it is set."
        )
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return error.diag.message_hint or (
            "`peers doctor lock_wait` says which session holds the lock."
        )
    return error.diag.message_hint
