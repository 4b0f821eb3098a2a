"""The exceptions of Peers.

A message says what is wrong, the bound and, in its last sentence, the remedy. `exit_code` is that
of the command line. This module imports no database driver, because workers need these classes and
never connect to the database.
"""

# ruff: noqa: N818 - the names say what is wrong; the suffix "Error" would add nothing

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from peers.spans import Span, format_span, seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class PeersError(Exception):
    """The base class. `hint` is the remedy, unless the message already has it."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        if self.hint is None:
            return self.message
        return f"{self.message.rstrip('.')}. {self.hint}"


def install_command(extra: str) -> str:
    """Return the command that installs an extra of Peers where this program runs.

    A bare `pip` may belong to another environment, as it does for a program that pipx installed.
    """
    return f"{shlex.quote(sys.executable)} -m pip install 'peers[{extra}]'"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt of a task. Times are in UTC."""

    attempt: int
    error_type: str
    error_message: str
    traceback: str | None
    exit_signal: str | None
    exit_code: int | None
    host: str | None
    started_at: datetime
    failed_at: datetime
    retry_at: datetime | None
    """When the next attempt is due; None: there is none."""

    def __str__(self) -> str:
        return f"{self.error_type}: {self.error_message}"


# ------------------------------------------------------------------------- what handlers may raise


_RETRY_MAX = 365 * 86400.0


class Retry(PeersError):
    """Raised by a handler: this attempt has failed; retry after `in_` instead of the backoff.

    `in_` is seconds, a timedelta or a text such as "1h", 0 to 365 days; None keeps the kind's
    backoff. The attempt counts. Raises `ValueError` for any other time.
    """

    def __init__(self, in_: Span | None = None, message: str = "") -> None:
        super().__init__(message or "the handler asked for another attempt")
        self.in_ = seconds_until_retry(in_)


class Snooze(Retry):
    """Raised by a handler: run the task again after `in_`, and free the slot until then.

    The attempt does not count. Use it for a task that cannot do anything yet, for instance because
    an external system has a cooldown. `in_` is seconds, a timedelta or a text such as "1h", 0 to
    365 days. Raises `ValueError` for any other time.
    """

    def __init__(self, in_: Span, message: str = "") -> None:
        super().__init__(in_, message or "the handler asked to run later")


def seconds_until_retry(in_: object) -> float | None:
    """Return the seconds of `Retry.in_`. Raises `ValueError` when it is out of bounds."""
    if in_ is None:
        return None
    try:  # messages to the parent carry floats
        seconds = seconds_of(in_)
    except ValueError as error:
        raise ValueError(f"in_ {error}, not {format_span(in_)}") from None
    if not 0 <= seconds <= _RETRY_MAX:  # this refuses NaN as well
        raise ValueError(f"in_ must be 0 seconds to 365 days, not {format_span(in_)}")
    return seconds


class Reject(PeersError):
    """Raised by a handler: the task is dead at once, because no further attempt can help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class ArgsInvalid(PeersError):
    """The args do not fit the handler's signature, cannot be written as JSON, or exceed 1 MiB."""


class ResultInvalid(PeersError):
    """The handler's result cannot be written as JSON, or exceeds 1 MiB."""


# ------------------------------------------------------------------- settings and the database


class ConfigError(PeersError):
    """A setting is missing or wrong."""

    exit_code = 78  # EX_CONFIG of sysexits.h


class NotPermitted(ConfigError):
    """The database role lacks a right."""


class SchemaMissing(ConfigError):
    """The database has no Peers schema, or one that is older than this package."""


class SchemaUnreleased(SchemaMissing):
    """The schema is from before the first release, and cannot be upgraded."""


class SchemaNewer(ConfigError):
    """The database's schema is newer than this package."""


class DatabaseUnreachable(PeersError):
    """The database cannot be reached, or the connection to it was lost; trying again may help."""

    exit_code = 3


class NoConnectionFree(DatabaseUnreachable):
    """All connections that the database or a pooler allows are in use."""


class NotFound(PeersError):
    """Something does not exist."""

    exit_code = 4


# -------------------------------------------------------------------- what the database refuses


class CycleError(PeersError):
    """PE001: the edges would close a cycle; the message has its path, shortened in the middle."""


class ChildStarted(PeersError):
    """PE002: the task has started or ended, so it can neither wait for a parent nor be changed."""


class WrongIsolation(PeersError):
    """PE003: edges and verbs need READ COMMITTED."""


class NotDead(PeersError):
    """PE004: only a dead letter can be retried or discarded."""


class NotRunning(PeersError):
    """PE016: only a running task has a stack, and only a live peer can show it."""


class Refused(PeersError):
    """PE005: the statement would make the scheduler's tables inconsistent."""


class ContractMismatch(ConfigError):
    """PE006: this package and the database have different versions of the contract."""


class BadArgument(PeersError):
    """An argument is wrong, such as `limit=0`; the message has the bound."""

    exit_code = 2


class BadGraph(BadArgument):
    """PE007: a graph is malformed, or names a task that does not exist."""


class TaskNotFound(NotFound):
    """PE008: there is no such task; it never existed, or it was pruned."""


class BadTask(BadArgument):
    """PE009: a value of a task is out of bounds."""


class BadSchedule(BadArgument):
    """PE013: a schedule is wrong; the message has the bound."""


class PeerLost(PeersError):
    """PE010: the peer is unknown, or its lease has expired: stop its handlers and join again."""


class GraphNotFound(NotFound):
    """PE011: there is no such graph; it never existed, or it was pruned."""


class BadLimit(BadArgument):
    """PE014: a limit is malformed; the message has the bound."""


class LimitNotFound(NotFound):
    """PE015: there is no such limit."""


class ScheduleNotFound(NotFound):
    """PE012: there is no such schedule."""


# ------------------------------------------------------------------------ what `result` raises


class TaskFailed(PeersError):
    """The task is dead. `failure` is its last failed attempt, if that is known."""

    def __init__(
        self, message: str, hint: str | None = None, failure: Failure | None = None
    ) -> None:
        super().__init__(message, hint)
        self.failure = failure


class TaskCancelled(PeersError):
    """The task was cancelled or discarded, so it has no result."""


_BY_SQLSTATE: dict[str, type[PeersError]] = {
    "PE001": CycleError,
    "PE002": ChildStarted,
    "PE003": WrongIsolation,
    "PE004": NotDead,
    "PE005": Refused,
    "PE006": ContractMismatch,
    "PE007": BadGraph,
    "PE008": TaskNotFound,
    "PE009": BadTask,
    "PE010": PeerLost,
    "PE011": GraphNotFound,
    "PE012": ScheduleNotFound,
    "PE013": BadSchedule,
    "PE014": BadLimit,
    "PE015": LimitNotFound,
    "PE016": NotRunning,
    "22003": BadTask,  # numeric_value_out_of_range
    "22007": BadTask,  # invalid_datetime_format
    "22008": BadTask,  # datetime_field_overflow
    "22P02": BadTask,  # invalid_text_representation
    "22P05": BadTask,  # untranslatable_character
    "54000": BadTask,  # program_limit_exceeded: an answer or a document is too large
    "42501": NotPermitted,  # insufficient_privilege
    "3F000": SchemaMissing,  # invalid_schema_name
    "42883": SchemaMissing,  # undefined_function
    "42P01": SchemaMissing,  # undefined_table
}

_HINTS: dict[type[PeersError], str] = {
    NotPermitted: "Connect as another role, or grant it one of these: peers_reader reads tasks and "
    "results; peers_operator also cancels, retries, prunes, changes and peeks; peers_submitter "
    "submits; peers_worker runs peers.",
    SchemaMissing: "Run `peers migrate` (it needs the owner's role).",
}


def from_database(error: BaseException) -> PeersError | None:
    """Return the exception of Peers for an error of a driver; None if it is not about Peers.

    Takes psycopg's errors, and SQLAlchemy's and Django's wrapping of them.
    """
    cause: Any = getattr(error, "orig", None) or error
    if (refusal := transactions_refused(cause)) is not None:
        return refusal
    if not hasattr(cause, "sqlstate") and hasattr(error.__cause__, "sqlstate"):
        cause = error.__cause__
    sqlstate = getattr(cause, "sqlstate", None)
    if not isinstance(sqlstate, str):
        return None
    kind = _BY_SQLSTATE.get(sqlstate)
    if kind is None:
        return None
    diagnostics = cause.diag
    message = diagnostics.message_primary or str(cause)
    if (
        kind is SchemaMissing and "peers" not in message
    ):  # it is about a table of the application, such as one that its trigger uses
        return None
    if kind is BadTask and diagnostics.message_detail:
        message = f"{message} ({diagnostics.message_detail.rstrip('.')})"
    hint = None if kind is SchemaMissing else diagnostics.message_hint  # it would be about casts
    return kind(message, hint or _HINTS.get(kind))


def transactions_refused(error: BaseException) -> ConfigError | None:
    """Return the exception to raise if a pooler in statement mode has refused a transaction."""
    if "statement pooling mode" not in str(error):
        return None
    return ConfigError(
        f"a pooler between Peers and Postgres refuses transactions ({str(error).strip()})",
        "Use pool_mode = transaction or session.",
    )


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the database as exceptions of Peers, with the driver's error as the cause."""
    try:
        yield
    except Exception as error:
        ours = from_database(error)
        if ours is None:
            raise
        raise ours from error
