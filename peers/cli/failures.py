"""What is raised, in our words: a sentence, a remedy and an exit code."""

from __future__ import annotations

import psycopg

from peers.database.connection import is_connection_lost
from peers.errors import DatabaseUnreachable, PeersError


def explained(error: BaseException) -> PeersError | None:
    """Return the error to tell; None for what only a fault of ours can raise."""
    if isinstance(error, PeersError):
        return error
    if isinstance(error, psycopg.Error):
        return _of_the_database(error)
    if isinstance(error, OSError):  # a full disk, a file that may not be read
        return PeersError(f"cannot go on: {error}")
    return None


def _of_the_database(error: psycopg.Error) -> PeersError:
    sentence = str(error).strip() or type(error).__name__
    if is_connection_lost(error):
        return DatabaseUnreachable(
            f"the connection to the database was lost: {sentence}",
            "What was under way may have been done or not: look before you repeat it.",
        )
    return PeersError(f"the database says: {sentence}")
