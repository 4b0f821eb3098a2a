"""Turn exceptions into a sentence, a remedy and an exit code."""

from __future__ import annotations

import psycopg

from peers.database.connection import is_connection_lost
from peers.errors import BadArgument, DatabaseUnreachable, PeersError, transactions_refused


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
    refusal = transactions_refused(error)
    if refusal is not None:
        return refusal
    sentence = str(error).strip() or type(error).__name__
    if is_connection_lost(error):
        return DatabaseUnreachable(
            f"the connection to the database was lost: {sentence}",
            "It is unknown whether the command took effect; check before you repeat it.",
        )
    return PeersError(f"the database says: {sentence}")
