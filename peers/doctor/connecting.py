"""Say why the database cannot be reached."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from peers.doctor.findings import ERROR, Finding
from peers.errors import ConfigError, PeersError


class Cause(NamedTuple):
    """A reason why connecting fails, recognized by what libpq or the server says."""

    name: str
    said: re.Pattern[str]
    remedy: str


def _cause(name: str, said: str, remedy: str) -> Cause:
    return Cause(name, re.compile(said, re.IGNORECASE), remedy)


BAD_CONFIGURATION: Final = "bad_configuration"
UNREACHABLE: Final = "unreachable"
EMBEDDED: Final = "embedded"

# The first one that matches counts: a refusal by pg_hba.conf mentions SSL as well.
CAUSES: Final = (
    _cause(
        "host_unknown",
        r"could not translate host name|name or service not known|failed to resolve host"
        r"|temporary failure in name resolution|nodename nor servname",
        "check the host in PEERS_DATABASE_URL; `getent hosts NAME` must find it on this machine",
    ),
    _cause(
        "socket_missing",
        r"no such file or directory",
        "start Postgres on this machine, or name its host in PEERS_DATABASE_URL; `ls "
        "/var/run/postgresql` shows the sockets of this machine",
    ),
    _cause(
        "connection_refused",
        r"connection refused|no route to host|network is unreachable",
        "check host and port; on the server: is Postgres started, does listen_addresses name this "
        "address, does a firewall let the port through? `pg_isready -h HOST -p PORT` tells",
    ),
    _cause(
        "no_reply",
        r"timeout expired|connection timeout|timed out",
        "nothing replies at this address: check host and port, and the firewall or security group "
        "between this machine and the server",
    ),
    _cause(
        "password_refused",
        r"password authentication failed|no password supplied|authentication failed",
        "correct user and password in PEERS_DATABASE_URL, the credential or ~/.pgpass; to set a "
        "new one: ALTER ROLE name PASSWORD 'new';",
    ),
    _cause(
        "role_missing",
        r"role .* does not exist|no such user|not permitted to log in",
        "as an administrator: CREATE ROLE name LOGIN PASSWORD 'secret'; GRANT peers_worker TO "
        "name; (peers_submitter for an application)",
    ),
    _cause(
        "database_missing",
        r"database .* does not exist|no such database",
        "check the name of the database in PEERS_DATABASE_URL, or create it: createdb NAME; then "
        "`peers migrate`",
    ),
    _cause(
        "access_refused",
        r"no pg_hba\.conf entry|permission denied for database|pg_hba\.conf rejects",
        "on the server: add a line for this user, database and address to pg_hba.conf and SELECT "
        "pg_reload_conf(); a server that wants TLS needs sslmode=require here; if the right to "
        "connect is missing: GRANT CONNECT ON DATABASE name TO role;",
    ),
    _cause(
        "tls_failed",
        r"\bssl|certificate|\btls\b",
        "check sslmode and sslrootcert in PEERS_DATABASE_URL: sslmode=verify-full needs the "
        "certificate of the server's authority; sslmode=disable only within a trusted network",
    ),
    _cause(
        "no_connection_free",
        r"too many clients already|remaining connection slots|too many connections"
        r"|no more connections allowed",
        "end idle sessions (SELECT pg_terminate_backend(pid) as a superuser, for whom connections "
        "are reserved), raise max_connections, or run fewer peers: each holds two",
    ),
    _cause(
        "server_starting",
        r"starting up|shutting down|recovery mode|not yet accepting",
        "wait for the end of its start or recovery; the log of Postgres says how far it is",
    ),
    _cause(
        "no_writable_server",
        r"session is read-only|server is in hot standby mode|not in hot standby",
        "none of the hosts in PEERS_DATABASE_URL accepts writes: promote a standby, or add the "
        "host of the primary",
    ),
    _cause(
        "pooler_refused",
        r"unsupported startup parameter|refuses transactions|statement pooling mode",
        "in PgBouncer: pool_mode = transaction or session, and the parameter in "
        "ignore_startup_parameters",
    ),
)


def refusal(error: PeersError) -> Finding:
    """Return the finding for an error of connecting."""
    said = str(error.__cause__ or error.message)
    for cause in CAUSES:
        if cause.said.search(said):
            return Finding(ERROR, cause.name, "the connection", error.message, cause.remedy)
    name = BAD_CONFIGURATION if isinstance(error, ConfigError) else UNREACHABLE
    return Finding(ERROR, name, "the connection", error.message, error.hint or "see `peers config`")
