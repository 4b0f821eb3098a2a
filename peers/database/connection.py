"""Connect to Postgres, and recognize a lost connection."""

from __future__ import annotations

import os
import re
from typing import Any, Final, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict

from peers import events
from peers.database.deadlines import BoundedConnection, Bounds
from peers.errors import ConfigError, DatabaseUnreachable, NoConnectionFree

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

CONNECT_TIMEOUT: Final = 5
"""Seconds for each address of the host."""

# Notice a dead network well within a lease of 30 s, and read text as UTF-8 whatever encoding the
# database has. Parameters of the URL win over these.
_DEFAULTS: Final = {
    "client_encoding": "UTF8",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
_CONNECT_TIMEOUT_MIN: Final = 2  # libpq takes whole seconds, and treats 1 as 2
_PREPARE_THRESHOLD: Final = 5  # psycopg's default
_ACKNOWLEDGE_FACTOR: Final = 2  # sent data may stay unacknowledged for twice connect_timeout

# A role or database may have other defaults: an isolation level at which Peers' functions refuse to
# work, and formats of times that psycopg does not read.
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
        "25006",  # read_only_sql_transaction: after a failover the old primary still replies
    }
)

# libpq gives no SQLSTATE for a refused connection, only the server's message. If that is not in
# English, a wrong name or password counts as unreachable, and the error shows the message.
_WRONG_SETTING: Final = re.compile(
    r"authentication failed|no password supplied|(role|database) .* does not exist"
    r"|no pg_hba\.conf entry|not permitted to log in|permission denied for database"
    r"|no such (database|user)"  # by PgBouncer
)
_UNREADABLE: Final = re.compile(
    r"definition of service|service file|invalid integer value|invalid port number"
)
_REFUSED_PARAMETER: Final = re.compile(r"unsupported startup parameter")  # by PgBouncer
# 53300, in English
_NO_CONNECTION_FREE: Final = re.compile(
    r"too many clients already|remaining connection slots are reserved"
    r"|too many connections for (role|database)|no more connections allowed"
)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_URL_FORMS: Final = (
    "It must look like postgresql://user@host:5432/database, or host=… user=… dbname=…; "
    "see PEERS_DATABASE_URL."
)


def connect(
    url: str,
    *,
    application_name: str,
    connect_timeout: float = CONNECT_TIMEOUT,
    bounds: Bounds | None = None,
    pooled: bool = False,
) -> BoundedConnection:
    """Connect in autocommit mode; transactions are READ COMMITTED.

    `connect_timeout` is the number of seconds for each address of the host. `bounds` limit each
    statement; None leaves it to the server's own limits. An empty `url` leaves everything to
    libpq's own variables (PGHOST, PGSERVICE …). Of several hosts, the one that accepts writes wins.

    With `pooled` the connection also works through a pooler in transaction mode. It prepares
    nothing and sets nothing for the session, because other clients would inherit that. Then only a
    `transaction()` is READ COMMITTED, and with `bounds` each statement is a transaction of its own.

    Raises ConfigError for a URL that cannot be read and for a login or database that is refused,
    DatabaseUnreachable for errors that may pass.
    """
    parameters = _parameters(url)
    parameters["application_name"] = application_name
    parameters.setdefault("connect_timeout", max(_CONNECT_TIMEOUT_MIN, round(connect_timeout)))
    parameters.setdefault(
        "tcp_user_timeout", max(1, round(connect_timeout * 1000 * _ACKNOWLEDGE_FACTOR))
    )
    connection: BoundedConnection | None = None
    try:
        connection = BoundedConnection.connect(**parameters, autocommit=True)
        if pooled:
            share_session(connection, bounds)
        else:
            begin_session(connection, connect_timeout, bounds)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, psycopg.OperationalError | OSError):  # no file descriptor is free
            raise _refusal(error, parameters) from error
        raise
    return connection


def share_session(connection: BoundedConnection, bounds: Bounds | None) -> None:
    """Leave the session as it is: a pooler may lend it to others after each transaction."""
    connection.pooled = True
    connection.prepare_threshold = None
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.bounds = bounds
    connection.answer_within = bounds.answer if bounds is not None else float("inf")
    connection.local_settings = bounds.settings() if bounds is not None else {}


def begin_session(
    connection: BoundedConnection, connect_timeout: float, bounds: Bounds | None
) -> None:
    """Set what a session of our own keeps: the isolation level, the bounds, formats of times."""
    connection.pooled = False
    connection.local_settings = {}
    connection.prepare_threshold = _PREPARE_THRESHOLD
    connection.isolation_level = None
    connection.answer_within = max(connect_timeout, _CONNECT_TIMEOUT_MIN)
    connection.execute(_SESSION)
    if bounds is None:
        connection.answer_within = float("inf")
        return
    connection.execute(_BOUNDS, list(bounds.settings().values()))
    connection.bounds = bounds
    connection.answer_within = bounds.answer


def is_connection_lost(error: BaseException) -> bool:
    """Return whether a statement failed because its connection is lost."""
    if isinstance(error, DatabaseUnreachable):
        return True
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:  # not from the server: the connection broke, or is closed
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate in _LOST or error.sqlstate.startswith(_CONNECTION_EXCEPTION)


def report_wait(error: Exception, retry_in: float) -> None:
    """Log why a peer that starts waits for the database."""
    is_full = isinstance(error, NoConnectionFree)
    report = events.no_connection_free if is_full else events.database_unreachable
    report(reason=str(error).strip(), retry_in=retry_in)


def _parameters(url: str) -> dict[str, Any]:
    try:
        parameters: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.ProgrammingError as error:
        # libpq quotes the part that it cannot parse, which may be the password
        reason = _QUOTED.sub("…", str(error)).strip()
        raise ConfigError(f"the database URL cannot be read: {reason}", _URL_FORMS) from None
    for option, value in _DEFAULTS.items():
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
    if _UNREADABLE.search(str(error)):
        return ConfigError(f"the database URL cannot be used: {reason}", _URL_FORMS)
    if needs_password or _WRONG_SETTING.search(str(error)):
        return ConfigError(
            f"the database at {place} refuses the connection: {reason}",
            "Check user, password and database name in PEERS_DATABASE_URL, and pg_hba.conf.",
        )
    if _REFUSED_PARAMETER.search(str(error)):
        return ConfigError(
            f"the pooler at {place} refuses the connection: {reason}",
            "Remove the parameter from PEERS_DATABASE_URL, PGOPTIONS and the service file, or name "
            "it in ignore_startup_parameters of PgBouncer.",
        )
    if _NO_CONNECTION_FREE.search(str(error)):
        return NoConnectionFree(
            f"the database at {place} has no free connection: {reason}",
            "Raise max_connections (or the pooler's limit), or run fewer peers: each holds two.",
        )
    return DatabaseUnreachable(
        f"the database at {place} cannot be reached: {reason}",
        "Check that Postgres runs there, and that PEERS_DATABASE_URL has the right host and port.",
    )


def _place(parameters: dict[str, Any]) -> str:
    host = parameters.get("host") or os.environ.get("PGHOST") or "the local socket"
    port = parameters.get("port") or os.environ.get("PGPORT")
    return f"{host}, port {port}" if port else str(host)
