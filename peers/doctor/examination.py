"""Make every check. One that fails or takes too long does not stop the others."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import psycopg

from peers.database.connection import connect, is_connection_lost
from peers.database.deadlines import Bounds
from peers.doctor import in_database, installation, notifications, objects, server
from peers.doctor.check import Check, CheckContext
from peers.doctor.connecting import refusal
from peers.doctor.findings import ERROR, NOT_MADE, NOTE, Finding, by_severity, not_made
from peers.errors import NotPermitted, PeersError, transactions_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import timedelta

    from peers.database.deadlines import BoundedConnection
    from peers.settings import Settings

CLIENT_CHECKS: Final = (
    *server.CHECKS, *notifications.CHECKS, *installation.CHECKS, *objects.CHECKS,
)  # fmt: skip
CONNECTION_LOST: Final = "connection_lost"
_IN_DATABASE: Final = "the checks of peers.doctor"
_MADE_HERE: Final = frozenset(check.name for check in (*CLIENT_CHECKS, in_database.THOROUGH))
_BOUNDS: Final = Bounds(lock=1, statement=3, answer=10)
_UNBOUNDED: Final = Bounds(lock=5, statement=3600, answer=3700)


@dataclass(slots=True)
class Report:
    """What an examination has found."""

    findings: list[Finding] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    """The names of the checks that were made or tried."""
    unknown: list[str] = field(default_factory=list)
    """The names in `only` that are no checks."""
    milliseconds: int = 0
    reached: bool = True
    """Whether the database was reached, and stayed."""
    server_version: str | None = None
    database: str | None = None
    role: str | None = None
    duties: str | None = None
    """What the connected role may do."""

    @property
    def has_problem(self) -> bool:
        """Return whether a finding is more than a note."""
        return any(found.level != NOTE for found in self.findings)

    @property
    def not_made(self) -> list[Finding]:
        """Return the checks that could not be made."""
        return [found for found in self.findings if found.finding == NOT_MADE]


def examine(
    settings: Settings,
    *,
    only: Collection[str] = (),
    older_than: timedelta | None = None,
    thorough: bool = False,
) -> Report:
    """Make all checks, or those that `only` names.

    older_than: how long something may last before it is a finding (default: 5 minutes). thorough:
    also compare the tables that must agree, which reads every task.
    """
    began = time.monotonic()
    report = Report()
    try:
        with connect(
            settings.url, application_name="peers doctor", bounds=_BOUNDS, pooled=True
        ) as connection:
            _Examination(report, CheckContext(settings, connection), only, older_than).make(
                thorough
            )
    except PeersError as error:
        report.findings.append(refusal(error))
        report.reached = False
    except psycopg.Error as error:
        refused = transactions_refused(error)
        report.findings.append(_lost(error) if refused is None else refusal(refused))
        report.reached = False
    report.findings = by_severity(report.findings)
    report.milliseconds = round((time.monotonic() - began) * 1000)
    return report


def _lost(error: psycopg.Error) -> Finding:
    return Finding(
        ERROR, CONNECTION_LOST, "the connection",
        f"the connection to the database was lost: {str(error).strip()}",
        "run `peers doctor` again; the log of Postgres says why it has ended the session",
    )  # fmt: skip


class _Examination:
    """The checks of one examination, on one connection."""

    def __init__(
        self,
        report: Report,
        context: CheckContext,
        only: Collection[str],
        older_than: timedelta | None,
    ) -> None:
        self._report = report
        self._context = context
        self._connection: BoundedConnection = context.connection
        self._only = only
        self._older_than = older_than

    def make(self, thorough: bool) -> None:
        self._describe()
        for check in CLIENT_CHECKS:
            self._make_on_client(check)
        self._make_in_database()
        if thorough:
            self._connection.local_settings = _UNBOUNDED.settings()
            self._connection.answer_within = _UNBOUNDED.answer
            self._make_on_client(in_database.THOROUGH)

    def _describe(self) -> None:
        info = self._connection.info
        self._report.server_version = info.parameter_status("server_version")
        self._report.database = info.dbname
        self._report.role = info.user
        rights = installation.read_rights(self._connection)
        self._report.role, self._report.duties = rights.role, rights.words

    def _make_on_client(self, check: Check) -> None:
        if self._is_wanted(check.name):
            self._report.checks.append(check.name)
            self._attempt(check.name, lambda: list(check.find(self._context)))

    def _make_in_database(self) -> None:
        """Make the checks of peers.doctor, if the schema has it and the role may call it."""
        if installation.read_rights(self._connection).examines:
            self._attempt(_IN_DATABASE, self._find_in_database)
        elif not self._report.has_problem:
            reason = f"the role {self._report.role} may not call peers.doctor"
            self._report.findings.append(_refused(_IN_DATABASE, reason, self._report.role))

    def _find_in_database(self) -> list[Finding]:
        """Make all checks in one statement, because each takes four round trips.

        If that takes too long, make one after the other, so that only the slow one is left out.
        """
        names = in_database.check_names(self._connection)
        self._report.unknown = sorted(set(self._only) - _MADE_HERE - set(names))
        names = [name for name in names if self._is_wanted(name)]
        self._report.checks += names
        try:
            return in_database.find(self._connection, names, self._older_than)
        except psycopg.errors.QueryCanceled:
            for name in names:
                find = partial(in_database.find, self._connection, [name], self._older_than)
                self._attempt(name, find)
        return []

    def _is_wanted(self, name: str) -> bool:
        return not self._only or name in self._only

    def _attempt(self, name: str, find: Callable[[], list[Finding]]) -> None:
        """Add the findings, or a note if they cannot be had. Raises for a lost connection."""
        try:
            self._report.findings += find()
        except (NotPermitted, psycopg.errors.InsufficientPrivilege) as error:
            self._report.findings.append(_refused(name, str(error), self._report.role))
        except psycopg.errors.QueryCanceled:
            reason = f"it took longer than {_BOUNDS.statement:.0f} s"
            remedy = f"when the server is less busy: peers doctor {name}"
            self._report.findings.append(not_made(name, reason, remedy))
        except psycopg.errors.LockNotAvailable:
            reason = "a lock on a table that it reads was not free within a second"
            self._report.findings.append(not_made(name, reason, "see the finding lock_wait"))
        except (psycopg.Error, PeersError) as error:
            # a standby refuses what changes something, and replies to everything else
            is_lost = not isinstance(
                error, PeersError | psycopg.errors.ReadOnlySqlTransaction
            ) and is_connection_lost(error)
            if is_lost or self._connection.closed:
                raise
            remedy = "run `peers doctor` again; report this if it persists"
            self._report.findings.append(not_made(name, str(error).strip(), remedy))


def _refused(check: str, reason: str, role: str | None) -> Finding:
    return not_made(check, reason.strip(), f'GRANT peers_reader, pg_monitor TO "{role}";')
