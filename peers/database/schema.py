"""Apply the SQL files to a database, and check that its schema fits this package."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import psycopg

from peers import events
from peers.database import functions
from peers.database.backoff import Backoff
from peers.errors import (
    ConfigError,
    NotPermitted,
    PeersError,
    SchemaMissing,
    SchemaNewer,
    SchemaUnreleased,
    translated,
)
from peers.types import CONTRACT_VERSION

if TYPE_CHECKING:
    from peers.database.connection import Connection

OLDEST_SERVER: Final = 150_000
_FIRST_VERSION: Final = 1
_TABLES: Final = re.compile(r"1[0-8]_\w+\.sql")
_MIGRATION: Final = re.compile(r"19_(\d{4})_\w+\.sql")
_OTHERS: Final = re.compile(r"[02-9]\d_\w+\.sql")
_CREATED: Final = re.compile(rb"^create table if not exists (peers\.\w+)", re.MULTILINE)
_TRIES: Final = 5
_RAISED: Final = "00000"  # a notice that the files raise, not "… already exists, skipping"
_LOCKED: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)


_UNRELEASED: Final = (
    "A schema from before the first release cannot be upgraded: run DROP SCHEMA peers CASCADE, "
    "which deletes all its tasks, then run `peers migrate`."
)


class Step(NamedTuple):
    """A file to apply. A file that changes tables has a version, and is applied once."""

    version: int | None
    file: Path


def folder() -> Path:
    """Find the folder of the SQL files: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    for place in (package / "sql", package.parent / "sql"):
        if place.is_dir():
            return place
    raise ConfigError(f"the SQL files are missing in {package}", "Install the package again.")


def steps(sql: Path | None = None) -> list[Step]:
    """List every file in the order of its application, which is the order of the names.

    Raises ConfigError for a name that says neither when nor how often to apply the file.
    """
    files = sorted((sql or folder()).glob("[!.]*.sql"))
    every = [Step(_version(file), file) for file in files]
    migrations = [step for step in every if _MIGRATION.fullmatch(step.file.name)]
    for number, step in enumerate(migrations, start=_FIRST_VERSION + 1):
        if step.version != number:
            raise ConfigError(
                f"{step.file} should be migration {number:04}",
                "Number migrations from 0002 on, without gaps, each number once.",
            )
    return every


def changes_tables(name: str) -> bool:
    """Return whether the file of this name changes tables, so that it is applied only once."""
    return bool(_TABLES.fullmatch(name) or _MIGRATION.fullmatch(name))


def _version(file: Path) -> int | None:
    """Return the version of the tables that a file makes, or None for a file without tables."""
    if migration := _MIGRATION.fullmatch(file.name):
        return int(migration[1])
    if _TABLES.fullmatch(file.name):
        return _FIRST_VERSION
    if _OTHERS.fullmatch(file.name):
        return None
    raise ConfigError(
        f"{file} would never be applied: its name has the wrong form",
        "Name a change of a table 19_NNNN_reason.sql and any other file NN_subject.sql, or remove"
        " it.",
    )


def installed_version(connection: Connection) -> int | None:
    """Return the version of the database's tables, or None without a Peers schema.

    Raises NotPermitted for a role that may not read it.
    """
    with translated():
        [(there,)] = connection.execute("select to_regclass('peers.migration')").fetchall()
        if there is None:
            return None
        query = "select max(version) from peers.migration"
        version: int | None = connection.execute(query).fetchall()[0][0]
        return version


def require(connection: Connection) -> None:
    """Check that this package can work with the database.

    Raises SchemaMissing for a database with no Peers schema or an older one (SchemaUnreleased for
    one from before the first release), SchemaNewer for a newer one. Each error says what to run.
    """
    version = functions.contract_version(connection)
    if version < CONTRACT_VERSION:
        raise SchemaMissing(
            f"the database has contract version {version}, this package needs {CONTRACT_VERSION}",
            "Run `peers migrate` as the owner of the schema.",
        )
    _refuse_newer("contract version", version, CONTRACT_VERSION)
    _refuse_unreleased(connection)


def migrate(connection: Connection, dry_run: bool = False) -> list[str]:
    """Apply the schema in one transaction, and return the names of the files, in order.

    Each table change is applied once, all other files each time. `dry_run` applies nothing. To
    block running applications only briefly, this gives up a lock that it does not get soon, and
    tries again.

    Raises SchemaNewer and NotPermitted, and ConfigError for a server older than 15 and for a
    database whose text may not convert to UTF-8.
    """
    backoff = Backoff(base=0.5)
    tries = _TRIES
    while True:
        try:
            return _migrate(connection, dry_run)
        except NotPermitted as error:
            raise NotPermitted(
                error.message,
                "Migrate as the owner of the schema peers, or first as a role that may create it.",
            ) from error
        except _LOCKED as error:
            tries -= 1
            if tries == 0:
                raise PeersError(
                    f"the schema is in use: {_TRIES} tries to lock it failed: {error}",
                    "Nothing was changed. End long transactions (see pg_stat_activity), and run it "
                    "again.",
                ) from error
            time.sleep(backoff.next())


def _migrate(connection: Connection, dry_run: bool) -> list[str]:
    if connection.info.server_version < OLDEST_SERVER:
        raise ConfigError(
            f"the server is Postgres {connection.info.server_version // 10_000}, which is too old",
            f"Use Postgres {OLDEST_SERVER // 10_000} or newer.",
        )
    with translated(), connection.transaction():
        connection.execute(
            "select set_config('lock_timeout', '2s', true),"
            # Migrations may change tasks, which peers.refuse_change() forbids to other sessions.
            " set_config('search_path', 'pg_catalog, peers, pg_temp', true),"
            " pg_advisory_xact_lock(hashtextextended('peers: migrate', 0))"
        )
        _refuse_encoding(connection)
        pending = _pending(connection)
        if not dry_run:
            for step in pending:
                _apply(connection, step)
        return [step.file.name for step in pending]


def _refuse_encoding(connection: Connection) -> None:
    """Raise ConfigError unless all text that the database can hold converts to UTF-8.

    Otherwise one row could stop every claim. Allowed are UTF8 and the single-byte encodings without
    gaps (LATIN1 …). SQL_ASCII accepts any bytes as text.
    """
    [(encoding, longest)] = connection.execute(
        "select pg_encoding_to_char(encoding)::text, pg_encoding_max_length(encoding)"
        " from pg_database where datname = current_database()"
    ).fetchall()
    if encoding == "UTF8":
        return
    if longest == 1:
        every = "select convert_to(chr(n), 'UTF8') from generate_series(1, 255) n"
        with contextlib.suppress(psycopg.errors.DataError), connection.transaction():
            connection.execute(every)
            return
    raise ConfigError(
        f"the database has the encoding {encoding}, whose text may not convert to UTF-8",
        "Create one with UTF8: createdb --encoding UTF8 --template template0 --locale C NAME.",
    )


def _pending(connection: Connection) -> list[Step]:
    every = steps()
    installed = installed_version(connection)
    if installed is not None:
        newest = max(step.version or 0 for step in every)
        _refuse_newer("schema version", installed, newest)
        _refuse_newer("contract version", functions.contract_version(connection), CONTRACT_VERSION)
        _refuse_unreleased(connection)
    return [step for step in every if step.version is None or step.version > (installed or 0)]


def _apply(connection: Connection, step: Step) -> None:
    def relay(notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate == _RAISED:
            events.migration_notice(file=step.file.name, notice=str(notice.message_primary))

    connection.add_notice_handler(relay)
    try:
        connection.execute(step.file.read_bytes())
    except psycopg.errors.InsufficientPrivilege:
        raise
    except psycopg.ProgrammingError as error:  # such as a column that has another type
        raise SchemaUnreleased(
            f"{step.file.name} does not fit the existing schema peers: {error}",
            f"Nothing was changed. {_UNRELEASED}",
        ) from error
    finally:
        connection.remove_notice_handler(relay)
    if step.version is not None:
        connection.execute(
            "insert into peers.migration (version, name) values (%s, %s) on conflict do nothing",
            (step.version, step.file.name),
        )


def _refuse_unreleased(connection: Connection) -> None:
    """Raise SchemaUnreleased if a table of the first release is missing.

    Its version does not tell: development versions had the number of the first release.
    """
    names = [
        name.decode()
        for step in steps()
        if step.version == _FIRST_VERSION
        for name in _CREATED.findall(step.file.read_bytes())
    ]
    with translated():
        missing = connection.execute(
            "select name from unnest(%s::text[]) name where to_regclass(name) is null", (names,)
        ).fetchall()
    if missing:
        raise SchemaUnreleased(
            f"the database {connection.info.dbname} has a schema from before the first release: "
            f"it lacks {', '.join(name for (name,) in missing)}",
            _UNRELEASED,
        )


def _refuse_newer(what: str, theirs: int, ours: int) -> None:
    if theirs > ours:
        raise SchemaNewer(
            f"the database has {what} {theirs}, and this package supports {ours}",
            "Install the newer release of peers on this host.",
        )
