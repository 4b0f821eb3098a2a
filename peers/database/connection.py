"""Connections to Postgres: how they are made, when they count as lost, when to try again."""

from __future__ import annotations

import os
import random
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from peers.database.deadlines import BoundedConnection, Bounds
from peers.errors import ConfigError, DatabaseUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT: Final = 5
"""Seconds for each address of the host."""

# A dead network must be noticed well within a lease of 30 s, and text is text whatever encoding a
# database has. What the URL says itself wins.
_SETTLED: Final = {
    "client_encoding": "UTF8",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
_SHORTEST_CONNECT_TIMEOUT: Final = 2  # libpq takes whole seconds, and 1 for 2
_SILENCES: Final = 2  # sent data may stay unacknowledged for twice the patience

# A role or database may default to another level, under which verbs refuse to work, and to forms of
# times that psycopg does not read.
_SESSION: Final = """
    select set_config('default_transaction_isolation', 'read committed', false),
           set_config('datestyle', 'ISO', false), set_config('intervalstyle', 'postgres', false)
"""
_BOUNDS: Final = """
    select set_config('lock_timeout', %s, false), set_config('statement_timeout', %s, false)
"""

_CONNECTION_EXCEPTION: Final = "08"  # a class of SQLSTATEs
_LOST: Final = frozenset(
    {
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
        "25006",  # read_only_sql_transaction: after a failover the old primary still answers
    }
)

# libpq gives no SQLSTATE for a refused connection, only the server's words. In another language
# than English a wrong name or password counts as unreachable, and the message still tells it.
_WRONG_SETTING: Final = re.compile(
    r"authentication failed|no password supplied|(role|database) .* does not exist"
    r"|no pg_hba\.conf entry|not permitted to log in|permission denied for database"
    r"|definition of service|service file|invalid integer value|invalid port number"
)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_URL_SHAPES: Final = (
    "It must look like postgresql://user@host:5432/database, or host=… user=… dbname=…; "
    "see PEERS_DATABASE_URL."
)


def connect(
    url: str,
    *,
    application_name: str,
    patience: float = CONNECT_TIMEOUT,
    bounds: Bounds | None = None,
    pooled: bool = False,
) -> BoundedConnection:
    """A connection in autocommit mode, whose transactions are READ COMMITTED.

    With `pooled` it works through a pooler in transaction mode, too: nothing is prepared or set for
    the session, which others would inherit; only what runs in a `transaction()` is READ COMMITTED.

    An empty `url` leaves everything to libpq's own variables (PGHOST, PGSERVICE …). Of several
    hosts, the one that accepts writes is taken. `patience` is the seconds that connecting may take;
    `bounds` are those of each statement (None: no other than the server's own).

    Raises ConfigError for a URL that cannot be read and for a login or database that is refused,
    DatabaseUnreachable for what may go away by itself.
    """
    parameters = _parameters(url)
    parameters["application_name"] = application_name
    parameters.setdefault("connect_timeout", max(_SHORTEST_CONNECT_TIMEOUT, round(patience)))
    parameters.setdefault("tcp_user_timeout", max(1, round(patience * 1000 * _SILENCES)))
    connection: BoundedConnection | None = None
    try:
        connection = BoundedConnection.connect(**parameters, autocommit=True)
        if pooled:
            connection.prepare_threshold = None
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        else:
            _begin_session(connection, patience, bounds)
    except (psycopg.OperationalError, OSError) as error:  # also: cut off before it said a word,
        if connection is not None:  # or no descriptor is free
            connection.close()
        raise _refusal(error, parameters) from error
    return connection


def _begin_session(connection: BoundedConnection, patience: float, bounds: Bounds | None) -> None:
    connection.answer_within = max(patience, _SHORTEST_CONNECT_TIMEOUT)
    connection.execute(_SESSION)
    if bounds is None:
        connection.answer_within = float("inf")
        return
    spans = [str(max(1, round(span * 1000))) for span in (bounds.lock, bounds.statement)]
    connection.execute(_BOUNDS, spans)
    connection.answer_within = bounds.answer


def is_connection_lost(error: BaseException) -> bool:
    """Whether a statement failed because its connection is no good any more: connect again."""
    if isinstance(error, DatabaseUnreachable):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # not the server's word: the connection broke, or is closed
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate in _LOST or error.sqlstate.startswith(_CONNECTION_EXCEPTION)


class Backoff:
    """How long to wait before the next try: a random part of a span that doubles up to `cap`.

    Seconds. Full jitter, so that peers that lost the same database do not return all at once.
    """

    def __init__(
        self, base: float = 0.1, cap: float = 5.0, luck: Callable[[], float] = random.random
    ) -> None:
        self._base = base
        self._cap = cap
        self._luck = luck
        self._span = base

    def next(self) -> float:
        """The seconds to wait now; the span of the following wait is twice as long."""
        wait = self._luck() * self._span
        self._span = min(self._cap, self._span * 2)
        return wait

    def reset(self) -> None:
        """After a success: begin with the shortest span again."""
        self._span = self._base


def _parameters(url: str) -> dict[str, Any]:
    try:
        parameters: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # libpq quotes what it stumbled over, which may be the password
        reason = _QUOTED.sub("…", str(error)).strip()
        raise ConfigError(f"the database URL cannot be read: {reason}", _URL_SHAPES) from None
    for option, value in _SETTLED.items():
        parameters.setdefault(option, value)
    if "," in str(parameters.get("host") or os.environ.get("PGHOST", "")):
        parameters.setdefault("target_session_attrs", "read-write")
    return parameters


def _refusal(
    error: psycopg.OperationalError | OSError, parameters: dict[str, Any]
) -> ConfigError | DatabaseUnreachable:
    place = _place(parameters)
    reason = (str(error) or type(error).__name__).split("failed: ")[-1].splitlines()[0].strip()
    pgconn = error.pgconn if isinstance(error, psycopg.Error) else None
    needs_password = pgconn is not None and pgconn.needs_password
    if needs_password or _WRONG_SETTING.search(str(error)):
        return ConfigError(
            f"the database at {place} refuses us: {reason}",
            "Check user, password and database name in PEERS_DATABASE_URL, and pg_hba.conf.",
        )
    return DatabaseUnreachable(
        f"the database at {place} cannot be reached: {reason}",
        "Check that it runs there, and that PEERS_DATABASE_URL names the right host and port.",
    )


def _place(parameters: dict[str, Any]) -> str:
    host = parameters.get("host") or os.environ.get("PGHOST") or "the local socket"
    port = parameters.get("port") or os.environ.get("PGPORT")
    return f"{host}, port {port}" if port else str(host)
